# See that a server answers within two minutes, and that its tables are sound. Arguments: client. Standard input: an options file.
set -u
umask 077
LC_ALL=C
export LC_ALL
client=$1
options=$(mktemp /dev/shm/.opsdeck.XXXXXXXXXX) || exit 1
trap 'rm -f "$options" "$options".*' EXIT
cat >"$options"
left=240
while ! "$client" --defaults-extra-file="$options" -N -B -e 'SELECT 1' >/dev/null 2>"$options.err"; do
  # A server that refuses our login is up: the accounts are those of the backup.
  grep -q 'ERROR 1045' "$options.err" && { echo "it answers, and refuses the login: the accounts are those of the backup"; exit 0; }
  left=$((left - 1))
  [ "$left" -gt 0 ] || { tail -n 1 "$options.err"; echo "the server does not answer" >&2; exit 1; }
  sleep 0.5
done
check_tables "$options.check" "$client" --defaults-extra-file="$options" ||
  { echo "tables are not sound after the restore" >&2; exit 1; }
echo "answers; $good tables are sound"
