set -u; umask 022; LC_ALL=C; export LC_ALL
while [ "$#" -gt 0 ]; do
    path=$1 there=$2 mode=$3 owner=$4; shift 4
    if [ "$there" = no ]; then
        # rmdir, never rm -r: what somebody put there stays
        [ ! -e "$path" ] && [ ! -L "$path" ] || rmdir -- "$path" || exit 90
        continue
    fi
    [ ! -L "$path" ] || { echo "$path is a symbolic link" >&2; exit 90; }
    mkdir -p -- "$path" || exit 90
    [ "$owner" = - ] || chown -- "$owner" "$path" || exit 90
    [ "$mode" = - ] || chmod -- "$mode" "$path" || exit 90
done
