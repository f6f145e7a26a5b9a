set -u; set -C; umask 077; LC_ALL=C; export LC_ALL
keep=$1; words=$2; shift 2
changed=' '; kept=' '; swapped=' '; stopped=no
trap 'stopped=yes' TERM INT HUP

fail() { echo "fail $1 $index"; return 1; }

first() {
    # first N WORD…: run the first N of the words
    n=$1; shift; total=$#; i=0
    for word do [ "$i" -ge "$n" ] || set -- "$@" "$word"; i=$((i + 1)); done
    shift "$total"; "$@"
}

each() {
    verb=$1; shift; shift "$words"; index=0
    while [ "$#" -gt 0 ]; do
        path=$1 staged=$2 previous=$3 none=$4 mode=$5 owner=$6 length=$7 digest=$8 checks=$9; shift 9
        "$verb" "$@" || return
        shift "$checks"; index=$((index + 1))
    done
}

stage() {
    parent=${path%/*}; [ -n "$parent" ] || parent=/
    [ "$stopped" = no ] || fail stopped || return
    [ ! -L "$path" ] || fail link || return
    [ ! -d "$path" ] || fail folder || return
    if [ "$length" = - ]; then [ ! -e "$path" ] || changed="$changed$index "; return 0; fi
    [ -d "$parent" ] || fail parent || return
    if [ "$length" = + ]; then [ -f "$staged" ]; elif [ "$length" -gt 0 ]; then head -c "$length" | base64 -d >"$staged"
    else : >"$staged"; fi || fail write || return
    got=$(sha256sum <"$staged"); [ "${got%% *}" = "$digest" ] || fail write || return
    now=; [ ! -f "$path" ] || now=$(sha256sum <"$path")
    if [ -f "$path" ]; then
        chmod --reference="$path" -- "$staged" && chown --reference="$path" -- "$staged" || fail owner || return
    else
        chmod 0644 -- "$staged"
    fi
    [ "$owner" = - ] || chown -- "$owner" "$staged" || fail owner || return
    [ "$mode" = - ] || chmod -- "$mode" "$staged" || fail owner || return
    if [ "${now%% *}" = "$digest" ] && [ "$(stat -c '%a %u %g' -- "$path")" = "$(stat -c '%a %u %g' -- "$staged")" ]
    then rm -f -- "$staged"; return 0; fi
    sync -- "$staged" || fail write || return
    changed="$changed$index "
    [ "$checks" -eq 0 ] || first "$checks" "$@" >&2 </dev/null || fail check
}

is_in() { case $1 in *" $index "*) return 0;; esac; return 1; }

hold() {
    is_in "$changed" || return 0
    rm -f -- "$none"
    if [ -e "$path" ]; then
        ln -f -- "$path" "$previous" 2>/dev/null ||
            cp -p --remove-destination -- "$path" "$previous" || fail write || return
    else
        rm -f -- "$previous"; : >"$none" || fail write || return
    fi
    kept="$kept$index "
}

swap() {
    is_in "$changed" || return 0
    [ "$stopped" = no ] || fail stopped || return
    swapped="$swapped$index "
    if [ "$length" = - ]; then rm -f -- "$path"; else mv -f -T -- "$staged" "$path"; fi || fail write
}

judge() {
    index=-1
    [ "$words" -eq 0 ] || [ "$changed" = ' ' ] || first "$words" "$@" >&2 </dev/null || fail validate || return
    [ "$stopped" = no ] || fail stopped
}

back() {
    is_in "$swapped" || return 0
    if [ -e "$none" ]; then rm -f -- "$path" "$none"; else mv -f -T -- "$previous" "$path"; fi || broken="$broken$index "
}

drop() { rm -f -- "$staged"; }
forget() { ! is_in "$kept" || rm -f -- "$previous" "$none"; }

if each stage "$@" && each hold "$@" && each swap "$@" && judge "$@"; then
    [ "$keep" = yes ] || each forget "$@"
    echo "changed$changed"
else
    broken=' '
    each back "$@"; [ "$broken" != ' ' ] || each forget "$@"; each drop "$@"
    [ "$broken" = ' ' ] || echo "broken$broken"
    exit 90
fi
