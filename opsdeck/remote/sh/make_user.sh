set -eu; LC_ALL=C; export LC_ALL; umask 077
name=$1 there=$2 system=$3 home=$4 shell=$5 groups=$6 keys=$7
if [ "$there" = no ]; then
    # the home folder stays: what lies in it is for a person to judge
    ! getent passwd -- "$name" >/dev/null || userdel -- "$name"
    exit 0
fi
if ! getent passwd -- "$name" >/dev/null; then
    set -- --shell "$shell" --home-dir "$home" --user-group
    if [ "$system" = yes ]; then set -- "$@" --system --no-create-home; else set -- "$@" --create-home; fi
    useradd "$@" -- "$name"
elif [ "$(getent passwd -- "$name" | cut -d: -f7)" != "$shell" ]; then
    usermod --shell "$shell" -- "$name"
fi
[ -z "$groups" ] || usermod --append --groups "$groups" -- "$name"
if [ "$keys" = yes ]; then
    home=$(getent passwd -- "$name" | cut -d: -f6); group=$(id -gn -- "$name")
    [ ! -L "$home/.ssh" ] || { echo "$home/.ssh is a symbolic link" >&2; exit 1; }
    install -d -m 0700 -o "$name" -g "$group" -- "$home/.ssh"
    staged=$(mktemp "$home/.ssh/.authorized_keys.XXXXXXXX")
    cat >"$staged"; chown -- "$name:$group" "$staged"; chmod 0600 -- "$staged"
    mv -f -T -- "$staged" "$home/.ssh/authorized_keys"
fi
