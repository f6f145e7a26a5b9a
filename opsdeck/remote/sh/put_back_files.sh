set -u; LC_ALL=C; export LC_ALL
n=0
while [ "$#" -gt 0 ]; do
    path=$1 previous=$2 none=$3; shift 3
    if [ -e "$previous" ]; then mv -f -T -- "$previous" "$path" || exit 1; echo "$n restored"
    elif [ -e "$none" ]; then rm -f -- "$path" "$none" || exit 1; echo "$n removed"
    else echo "$n nothing"
    fi
    n=$((n + 1))
done
echo end
