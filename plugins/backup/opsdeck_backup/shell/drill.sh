# Start a server of its own on a prepared folder, check every table, ask own questions, stop it.
# Arguments: folder, user of the server, memory in MiB, programs (server, client), then the questions.
set -u
umask 027
LC_ALL=C
export LC_ALL
folder=$1 user=$2 memory=$3 server=$4 client=$5
shift 5
PATH=$PATH:/usr/sbin:/sbin
socket=$folder/ask.sock
pid=
end() {
  [ -z "$pid" ] || { kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; }
  rm -f "$socket"
}
trap end EXIT
trap 'exit 143' TERM INT HUP
chown -R "$user:$user" "$folder" || exit 1
: >"$folder.log" && chown "$user" "$folder.log" || exit 1
# `loose_` lets a server pass over what the tool noted for itself (XtraBackup: server_uuid, master_key_id).
sed 's/^\([a-z_]*=\)/loose_\1/' "$folder/backup-my.cnf" >"$folder.cnf" && chmod 644 "$folder.cnf" || exit 1
"$server" --defaults-file="$folder.cnf" --datadir="$folder" --user="$user" --socket="$socket" \
  --pid-file="$folder/ask.pid" --skip-networking --skip-grant-tables --loose-skip-slave-start \
  --loose-skip-replica-start --loose-mysqlx=OFF --event-scheduler=OFF \
  --skip-log-bin --innodb-buffer-pool-size="${memory}M" --log-error="$folder.log" >/dev/null 2>&1 &
pid=$!
left=1200
while ! "$client" --no-defaults --socket="$socket" -N -B -e 'SELECT 1' >/dev/null 2>&1; do
  kill -0 "$pid" 2>/dev/null || { tail -n 8 "$folder.log"; echo "the server did not start on what was restored" >&2; exit 1; }
  left=$((left - 1))
  [ "$left" -gt 0 ] || { tail -n 8 "$folder.log"; echo "the server did not answer in ten minutes" >&2; exit 1; }
  sleep 0.5
done
echo "answers $("$client" --no-defaults --socket="$socket" -N -B -e 'SELECT VERSION()')"
check_tables "$folder.check" "$client" --no-defaults --socket="$socket" || { echo "tables are not sound" >&2; exit 1; }
[ "$good" -gt 0 ] || { echo "no table was found" >&2; exit 1; }
echo "tables $good"
for question in "$@"; do
  answer=$(printf '%s\n' "$question" | "$client" --no-defaults --socket="$socket" --default-character-set=utf8mb4 -N -B 2>&1) || { echo "$answer"; echo "the question failed: $question" >&2; exit 1; }
  case $answer in '' | 0 | NULL) echo "the answer to \"$question\" is \"$answer\"" >&2; exit 1 ;; esac
  echo "answered $(printf '%s' "$answer" | head -n 1 | cut -c1-100)"
done
echo "sound"
