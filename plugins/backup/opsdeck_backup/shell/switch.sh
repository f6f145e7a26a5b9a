# Put a prepared folder in the place of a server's data; what was there is moved aside and put back if the new does not
# answer. Arguments: data folder, where the old goes, unit, user and group, client, then the engine's words that move the
# data.
data=$1 aside=$2 unit=$3 owner=$4 client=$5
shift 5
was=
again() { [ -z "$was" ] || systemctl start "$unit"; }
undo() {
  systemctl stop "$unit"
  back
  again
  die "$1"
}
systemctl is-active -q "$unit" && was=y
[ ! -e "$aside" ] || die "$aside is there already"
systemctl stop "$unit" || die "$unit does not stop"
! systemctl is-active -q "$unit" || die "$unit still runs"
place "$@" || { again; exit 1; }
if ! systemctl start "$unit" || ! systemctl is-active -q "$unit"; then
  journalctl -u "$unit" -n 12 --no-pager -o cat
  undo "$unit does not start on what was restored"
fi
asked=$(mktemp -d /run/opsdeck-asked.XXXXXXXXXX) || undo "there is no room in /run"
trap 'rm -rf "$asked"' EXIT
left=120
while ! "$client" -N -B -e 'SELECT 1' >/dev/null 2>"$asked/said"; do
  # A server that refuses our login is up: the accounts are those of the backup.
  grep -q 'ERROR 1045' "$asked/said" && { echo "it answers, and refuses root's login: the accounts are those of the backup"; exit 0; }
  left=$((left - 1))
  [ "$left" -gt 0 ] || { journalctl -u "$unit" -n 12 --no-pager -o cat; undo "$unit does not answer"; }
  sleep 0.5
done
check_tables "$asked/check" "$client" || undo "tables are not sound after the restore"
echo "answers; $good tables are sound"
