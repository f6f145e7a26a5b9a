# Run the engine's words, keep what it says from the console, and believe it only by its last line.
set -u
umask 077
LC_ALL=C
export LC_ALL
log=$1
shift
"$@" >"$log" 2>&1
status=$?
if [ "$status" != 0 ] || ! tail -n 1 "$log" | grep -q 'completed OK!'; then
  tail -n 8 "$log"
  echo "$1 ended with $status and did not say that it completed" >&2
  exit 1
fi
tail -n 1 "$log"
