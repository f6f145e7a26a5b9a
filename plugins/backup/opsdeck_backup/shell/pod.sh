# Run a part in a container of a pod, detached there, and follow it to its end. Arguments: where its files lie there,
# how many looks may fail in a row, what starts, follows and ends it there, then kubectl's words up to "--".
# Standard input is handed to what starts it.
set -u
LC_ALL=C
export LC_ALL
base=$1 patience=$2 start=$3 follow=$4 finish=$5
shift 5
trap 'timeout 60 "$@" sh -c "$finish" sh "$base" end </dev/null; exit 143' TERM INT HUP
# It is held here meanwhile, so that a connection that breaks off can be tried again: what has begun is not begun twice.
given=$(cat)
tries=1
until printf '%s\n' "$given" | timeout 60 "$@" sh -c "$start" sh "$base"; do
  tries=$((tries + 1))
  [ "$tries" -le 5 ] || { echo "the pod did not take the work" >&2; exit 1; }
  sleep 3
done
given=
at=0
looks=0
failed=0
said=
while :; do
  if out=$(timeout 60 "$@" sh -c "$follow" sh "$base" "$at" </dev/null) && [ "${out##*@@ }" != "$out" ]; then
    failed=0
    state=${out##*@@ }
    text=${out%@@ *}
    at=${state#* }
    state=${state% *}
    [ -z "$text" ] || { printf '%s' "$text"; said=$text; }
    [ "$state" = running ] || break
  else
    failed=$((failed + 1))
    [ "$failed" -lt "$patience" ] || { echo "the pod could not be reached for too long" >&2; exit 1; }
  fi
  looks=$((looks + 1))
  if [ "$looks" -lt 20 ]; then sleep 0.3; else sleep 3; fi &
  wait $!
done
timeout 60 "$@" sh -c "$finish" sh "$base" "" </dev/null
case $state in
  gone) echo "the pod was replaced while it ran there" >&2; exit 1 ;;
  killed) echo "it was killed in the pod" >&2; exit 1 ;;
  0) exit 0 ;;
esac
printf '%s\n' "$said" | tail -n 1 >&2
exit "$state"
