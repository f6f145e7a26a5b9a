LC_ALL=C; export LC_ALL
[ -d /run/systemd/system ] || { echo nosystemd; exit 91; }
verb=$1 unit=$2 limit=$3 settle=$4
show() { systemctl show --no-pager -p "$1" --value -- "$unit"; }
began=$(date +%s)
timeout -k 5 "$limit" systemctl --no-ask-password --no-pager "$verb" -- "$unit" >&2 </dev/null
echo "code $?"
case $verb in start | restart | reload | reload-or-restart)
    # a program that dies after a moment, or that systemd starts again and again, is not running
    end=$(($(date +%s) + limit))
    while [ "$(date +%s)" -lt "$end" ]; do
        case $(show ActiveState) in activating | reloading) sleep 0.3 ;; *) break ;; esac
        [ "$(show SubState)" != auto-restart ] || break
    done
    [ "$(show ActiveState)" != active ] || sleep "$settle"
    ;;
esac
systemctl show --no-pager -p Id,LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts,MainPID,Type -- "$unit"
echo journal
said() { journalctl --no-pager -q -o cat -n 4 --since "@$began" "$@" 2>/dev/null | tail -c 3000; echo; }
# the program's own words last, so that a unit that is started again and again does not drown them in systemd's
if [ "$(show ActiveState)" != active ] || [ "$(show NRestarts)" != 0 ]; then
    timeout 15 journalctl --sync 2>/dev/null # on a busy host the journal is behind what was printed
    said "UNIT=$unit" _PID=1
    # why a program could not be started is said by a process of systemd's own, which may be gone before the journal
    # looks up whose it was: that word is known by its id (SD_MESSAGE_SPAWN_FAILED in systemd's sd-messages.h)
    said "_SYSTEMD_UNIT=$unit" + "UNIT=$unit" MESSAGE_ID=641257651c1b4ec9a8624d7a40a9e1e7
fi
echo
echo end
