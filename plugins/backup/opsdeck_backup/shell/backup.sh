# Stream one backup into the store; the manifest is written last. Arguments after the common two:
# object, manifest, planned (JSON), kind, LSN it must begin at, parent's checkpoints (base64), their file's name,
# end marker (hexadecimal), zstd level, threads, part size in MiB, bandwidth limit, read back (y/n), recipients (one a
# line), number of words of the dump of accounts, those words, then the engine's words.
object=$1 manifest=$2 planned=$3 kind=$4 begin=$5 parent=$6 parent_name=$7 marker=$8 level=$9
shift 9
threads=$1 part=$2 limit=$3 read_back=$4 recipients=$5 words=$6
shift 6

# Set how much we give way to the database. Between sessions the kernel heeds the niceness of their groups, not that of
# their processes (sched(7), "The autogroup feature").
give_way() {
  renice -n "$1" -p $$ >/dev/null 2>&1  # who is not root cannot go back
  { echo "$1" >/proc/self/autogroup; } 2>/dev/null
}

printf '%s\n' "$recipients" >"$run/recipients"
mkdir "$run/lsn" "$run/scratch"
if [ "$kind" = incremental ]; then
  mkdir "$run/base"
  printf '%s' "$parent" | base64 -d >"$run/base/$parent_name" || die "the parent's checkpoints cannot be read"
fi
started=$(date -u +%Y-%m-%dT%H:%M:%SZ)

# What the data does not hold: the configuration and the accounts, sealed like the data, sent beside it. In a
# pod, where nobody is root, the configuration there is not the server's.
keep_config() {
  first "$@" >"$run/accounts.sql" 2>"$run/accounts.err" ||
    die "the accounts cannot be read: $(tail -n 1 "$run/accounts.err")"
  tar -C "$run" -cf "$run/config.tar" accounts.sql || die "the configuration cannot be collected"
  if [ -d /etc/mysql ] && [ "$(id -u)" = 0 ]; then
    tar -C / -rf "$run/config.tar" etc/mysql || die "the configuration cannot be read"
  fi
  zstd -q -c "$run/config.tar" >"$run/config.zst" && age -R "$run/recipients" -o "$run/config.age" "$run/config.zst" ||
    die "the configuration cannot be sealed"
  rm -f "$run/accounts.sql" "$run/config.tar" "$run/config.zst"
  store copyto "$run/config.age" "$object.config" || die "the store did not take the configuration"
}
keep_config "$words" "$@" &
config=$!
shift "$words"

mkfifo "$run/p.sha"
digest <"$run/p.sha" >"$run/sha" &
digesting=$!
give_way 5
ionice -c2 -n7 -p $$
{
  first "$#" "$@" 2>"$run/engine.log"
  echo $? >"$run/rc.engine"
} | {
  pass "$run/raw" "$((${#marker} / 2))" read
  echo $? >"$run/rc.scan"
} | {
  zstd -q -T"$threads" "-$level"
  echo $? >"$run/rc.zstd"
} | {
  age -R "$run/recipients"
  echo $? >"$run/rc.age"
} | {
  pass "$run/stored" 0 "" "$run/p.sha"
  echo $? >"$run/rc.hash"
} | {
  store rcat --bwlimit "$limit" --s3-chunk-size "${part}Mi" --s3-upload-concurrency 2 "$object"
  echo $? >"$run/rc.store"
}
give_way 0
wait "$digesting" || die "the part that takes the sha256 was killed"
if ! parts engine scan zstd age hash store; then
  tail -n 5 "$run/engine.log"
  die "the stream broke:$bad"
fi
tail -n 1 "$run/engine.log" | grep -q 'completed OK!' || {
  tail -n 5 "$run/engine.log"
  die "the engine did not say that it completed"
}
read -r raw tail <"$run/raw"
[ "$tail" = "$marker" ] || die "the stream has no end marker: it was cut"
read -r sha _ <"$run/sha"
read -r size <"$run/stored"
checkpoints=
for file in "$run"/lsn/*_checkpoints; do checkpoints=$file; done
[ -s "$checkpoints" ] || die "the engine left no checkpoints"
from=$(sed -n 's/^from_lsn = //p' "$checkpoints")
to=$(sed -n 's/^to_lsn = //p' "$checkpoints")
[ "$from" = "$begin" ] || die "it begins at LSN $from, not at $begin"
[ "$to" -ge "$from" ] || die "it ends at LSN $to, before it begins ($from)"
for file in "$run"/lsn/*_info; do info=$file; done

if [ "$read_back" = n ]; then
  stored=$(store lsf --format s "$object") || die "the store does not show the object"
  [ "$stored" = "$size" ] || die "the store has $stored bytes of $size"
else
  echo "reading it back"
  {
    store cat "$object"
    echo $? >"$run/rc.read"
  } | {
    pass "$run/came" 0 "read back"
    echo $? >"$run/rc.pass"
  } | digest >"$run/back" || die "the sha256 could not be taken"
  parts read pass || die "it could not be read back:$bad"
  read -r back _ <"$run/back"
  [ "$back" = "$sha" ] || die "what the store has is not what was sent (sha256 $back, not $sha)"
fi
wait "$config" || die "the configuration was not kept"
config_sha=$(sha256sum <"$run/config.age")
config_sha=${config_sha%% *}

printf '{"planned":%s,"result":{"started":"%s","finished":"%s","raw":%s,"stored":%s,"sha256":"%s","config_sha256":"%s","checkpoints":"%s","checkpoints_name":"%s","info":"%s","read_back":%s}}\n' \
  "$planned" "$started" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$raw" "$size" "$sha" "$config_sha" \
  "$(base64 -w0 "$checkpoints")" "${checkpoints##*/}" "$(base64 -w0 "$info")" \
  "$([ "$read_back" = y ] && echo true || echo false)" >"$run/manifest.json"
store copyto "$run/manifest.json" "$manifest" || die "the store did not take the manifest"
echo "committed: $((raw / 1048576)) MiB read, $size bytes stored, LSN $from to $to"
