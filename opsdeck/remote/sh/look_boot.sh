LC_ALL=C; export LC_ALL
# field 22 of /proc/1/stat counts from the machine's boot, so it tells containers apart that share one boot id
read -r boot </proc/sys/kernel/random/boot_id
stat=$(cat /proc/1/stat); stat=${stat##*) }; set -- $stat
echo "boot $boot ${20}"
# a host to play with is a shell on the console's own machine: rebooting it would take that machine down
[ -z "${OPSDECK_PLAY_HOST:-}" ] || echo play
if [ -d /run/systemd/system ]; then
    echo "system $(systemctl is-system-running 2>/dev/null)"
    systemctl list-units --failed --plain --no-legend --no-pager 2>/dev/null | while read -r unit rest; do echo "failed $unit"; done
else
    echo "system none"
fi
echo end
