# Put a prepared folder in the place of the data on a claim that nothing uses, or put the former data back.
# Arguments: `place` or `back`, data folder, where the old goes, user and group, then the engine's words that move the
# data. What belongs to the claim itself stays where it is.
set -u
umask 027
LC_ALL=C
export LC_ALL
verb=$1 data=$2 aside=$3 owner=$4
shift 4
die() {
  echo "$*" >&2
  exit 1
}
# Move all of a folder's own into another. Where the data are the whole claim, the other lies within, and InnoDB, which
# looks for its files in every folder below the data, must not take those for its own.
empty() {
  mkdir -p "$2" || return 1
  find "$1" -mindepth 1 -maxdepth 1 ! -name lost+found ! -name '.opsdeck-*' -exec mv -t "$2" {} + || return 1
  case $2 in "$data"/*) find "$2" -name '*.i[bd][du]' -type f -exec sh -c 'for f; do mv "$f" "$f.kept"; done' sh {} + ;; esac
}
back() {
  [ -d "$aside" ] || die "$aside is not there: nothing was put back"
  empty "$data" "$aside.failed" || die "the old data could not be put back"
  find "$aside" -name '*.kept' -type f -exec sh -c 'for f; do mv "$f" "${f%.kept}"; done' sh {} + &&
    find "$aside" -mindepth 1 -maxdepth 1 -exec mv -t "$data" {} + && rmdir "$aside" || die "the old data could not be put back"
  echo "the old data is in its place again; what did not serve is $aside.failed"
}
[ "$verb" = place ] || { back; exit 0; }
[ ! -e "$aside" ] || die "$aside is there already"
mkdir -p "$data" || die "no data folder $data"
empty "$data" "$aside" || { back; die "the old data cannot be moved aside"; }
"$@" >"$aside.log" 2>&1
status=$?
if [ "$status" != 0 ] || ! tail -n 1 "$aside.log" | grep -q 'completed OK!'; then
  tail -n 8 "$aside.log"
  back
  die "the data could not be moved into place ($status)"
fi
rm -f "$aside.log"
chown -R "$owner" "$data" || { back; die "the data cannot be given to $owner"; }
echo "in place"
