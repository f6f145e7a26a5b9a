# Fetch one link of a chain into an empty folder. Arguments after the common two:
# folder, object, its sha256, size, extractor.
folder=$1 object=$2 sha=$3 size=$4 extractor=$5
mkdir -p "$folder" || die "no folder $folder"
[ -z "$(ls -A "$folder")" ] || die "$folder is not empty"
mkfifo "$run/p.sha" "$run/p.size"
sha256sum <"$run/p.sha" >"$run/sha" &
shas=$!
wc -c <"$run/p.size" >"$run/size" &
sizes=$!
watch_reading "$shas"
{
  store cat "$object"
  echo $? >"$run/rc.store"
} | {
  tee "$run/p.sha" "$run/p.size"
  echo $? >"$run/rc.hash"
} | {
  age -d -i "$run/identity" 2>"$run/age.log"
  echo $? >"$run/rc.age"
} | {
  zstd -dcq 2>"$run/zstd.log"
  echo $? >"$run/rc.zstd"
} | {
  "$extractor" -x -C "$folder" 2>"$run/extract.log"
  echo $? >"$run/rc.unpack"
}
wait "$shas" && wait "$sizes" || die "a part that looks at the stream was killed"
read -r got _ <"$run/sha"
read -r have <"$run/size"
parts store hash age zstd unpack || {
  tail -q -n 2 "$run/age.log" "$run/zstd.log" "$run/extract.log"
  grep -q 'no identity matched' "$run/age.log" && die "the key does not open it"
  [ "$have" = "$size" ] && [ "$got" != "$sha" ] && die "what the store has was changed (sha256 $got, not $sha)"
  parts store || die "the store did not give it whole"
  parts store hash age zstd unpack
  die "fetching broke:$bad"
}
[ "$have" = "$size" ] || die "the store gave $have bytes of $size"
[ "$got" = "$sha" ] || die "what the store has was changed (sha256 $got, not $sha)"
ls "$folder"/*_info >/dev/null 2>&1 || die "it was unpacked, and lacks its last file: it was cut"
echo "fetched $have bytes, unpacked $(du -sm "$folder" | cut -f1) MiB"
