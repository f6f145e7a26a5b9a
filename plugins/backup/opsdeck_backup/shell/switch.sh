# Put a prepared folder in the place of a server's data; what was there is moved aside and put back if the new does not
# answer. Arguments: prepared folder, data folder, where the old goes, unit, user, client, then the
# engine's words that move the data.
set -u
umask 027
LC_ALL=C
export LC_ALL
prepared=$1 data=$2 aside=$3 unit=$4 user=$5 client=$6
shift 6
die() {
  echo "$*" >&2
  exit 1
}
back() {
  echo "putting the old data back"
  systemctl stop "$unit"
  [ ! -e "$data" ] || mv "$data" "$prepared.failed" || return 1
  [ ! -e "$aside" ] || mv "$aside" "$data" || return 1
  [ -z "$was" ] || systemctl start "$unit"
}
was=
systemctl is-active -q "$unit" && was=y
[ ! -e "$aside" ] || die "$aside is there already"
systemctl stop "$unit" || die "$unit does not stop"
! systemctl is-active -q "$unit" || die "$unit still runs"
if [ -e "$data" ]; then
  ! mountpoint -q "$data" || { [ -z "$was" ] || systemctl start "$unit"; die "$data is a mount of its own: it cannot be moved aside"; }
  mv "$data" "$aside" || die "the old data cannot be moved aside"
fi
install -d -o "$user" -g "$user" -m 0750 "$data" || { back; die "no new data folder"; }
"$@" >"$prepared.log" 2>&1
status=$?
if [ "$status" != 0 ] || ! tail -n 1 "$prepared.log" | grep -q 'completed OK!'; then
  tail -n 8 "$prepared.log"
  back
  die "the data could not be moved into place ($status)"
fi
chown -R "$user:$user" "$data" || { back; die "the data cannot be given to $user"; }
if ! systemctl start "$unit" || ! systemctl is-active -q "$unit"; then
  journalctl -u "$unit" -n 12 --no-pager -o cat
  back
  die "$unit does not start on what was restored"
fi
left=120
while ! "$client" -N -B -e 'SELECT 1' >/dev/null 2>"$prepared.ask"; do
  # A server that refuses our login is up: the accounts are those of the backup.
  grep -q 'ERROR 1045' "$prepared.ask" && { echo "it answers, and refuses root's login: the accounts are those of the backup"; exit 0; }
  left=$((left - 1))
  [ "$left" -gt 0 ] || { journalctl -u "$unit" -n 12 --no-pager -o cat; back; die "$unit does not answer"; }
  sleep 0.5
done
check_tables "$prepared.check" "$client" || { back; die "tables are not sound after the restore"; }
echo "answers; $good tables are sound"
