# Putting a prepared copy in the place of a server's data, and the former data back. Given: $data, the folder; $aside,
# where the old goes; $owner, user and group. What belongs to a mount or a claim itself stays where it is.
set -u
umask 027
LC_ALL=C
export LC_ALL
die() {
  echo "$*" >&2
  exit 1
}
# Move all of a folder's own into another. Where the data are a whole mount, the other lies within, and InnoDB, which
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
# Run the engine's words, which move the data, believe them by their last line only, and take back what is half done.
place() {
  mkdir -p "$data" || die "no data folder $data"
  empty "$data" "$aside" || { back; echo "the old data cannot be moved aside" >&2; return 1; }
  "$@" >"$aside.log" 2>&1
  status=$?
  if [ "$status" != 0 ] || ! tail -n 1 "$aside.log" | grep -q 'completed OK!'; then
    tail -n 8 "$aside.log"
    rm -f "$aside.log"
    back
    echo "the data could not be moved into place ($status)" >&2
    return 1
  fi
  rm -f "$aside.log"
  chown -R "$owner" "$data" || { back; echo "the data cannot be given to $owner" >&2; return 1; }
}
