# Bring a chain back as one consistent copy: fetch, compare, decrypt and unpack link after link, and prepare those that
# are there meanwhile. Arguments after the common two: folder, extractor, number of links, for each its object, sha256
# and size; number of the engine's commands (0 only unpacks), for each the number of its words and these.
folder=$1 extractor=$2 links=$3
shift 3

# Ends with a status of its own: what lies in the store is another thing than was sent there.
changed() {
  echo "what the store has was changed: $*" >&2
  exit 65
}

fetch() {
  into=$folder/$1 object=$2 sha=$3 size=$4
  mkdir "$into" || die "no folder $into"
  rm -f "$run"/rc.*
  mkfifo "$run/p.$1"
  digest <"$run/p.$1" >"$run/sha" &
  digesting=$!
  {
    store cat "$object"
    echo $? >"$run/rc.store"
  } | {
    pass "$run/got" 0 fetched "$run/p.$1"
    echo $? >"$run/rc.hash"
  } | {
    age -d -i "$run/identity" 2>"$run/age.log"
    echo $? >"$run/rc.age"
  } | {
    zstd -dcq 2>"$run/zstd.log"
    echo $? >"$run/rc.zstd"
  } | {
    "$extractor" -x -C "$into" 2>"$run/extract.log"
    echo $? >"$run/rc.unpack"
  }
  wait "$digesting" || die "the part that takes the sha256 was killed"
  got= have=
  read -r got _ <"$run/sha"
  { read -r have _ <"$run/got"; } 2>/dev/null
  parts store hash age zstd unpack || {
    tail -q -n 2 "$run/age.log" "$run/zstd.log" "$run/extract.log"
    grep -q 'no identity matched' "$run/age.log" && die "the key does not open it"
    # age stops at a changed piece, and the store's end of the pipe breaks (141); a store that fails says so itself.
    given=
    { read -r given <"$run/rc.store"; } 2>/dev/null
    case $given in 0 | 141) grep -qE 'authenticate|bad header MAC' "$run/age.log" &&
      changed "it does not open whole" ;; esac
    [ "$have" = "$size" ] && [ "$got" != "$sha" ] && changed "its sha256 is $got, not $sha"
    left=$(df -Pk "$folder" | awk 'END { print $4 }')
    [ "$left" -ge 1024 ] || die "no room is left in $folder"
    # Where a later part ends, the store's end of the pipe breaks.
    case $given in 0 | 141) ;; *) die "the store did not give it whole" ;; esac
    die "fetching broke:$bad: $(tail -n 1 "$run/extract.log")"
  }
  [ "$have" = "$size" ] || die "the store gave $have bytes of $size"
  [ "$got" = "$sha" ] || changed "its sha256 is $got, not $sha"
  ls "$into"/*_info >/dev/null 2>&1 || die "it was unpacked, and lacks its last file: it was cut"
}

# Run the engine's words, keep what it says, and believe it only by its last line.
prepare() {
  log=$folder/prepare.log
  first "$@" >"$log" 2>&1
  status=$?
  [ "$status" = 0 ] && tail -n 1 "$log" | grep -q 'completed OK!' && return
  tail -n 8 "$log"
  echo "$2 ended with $status and did not say that it completed" >&2
  return 1
}

read -r began _ </proc/uptime
{
  (
    number=0
    while [ "$number" -lt "$links" ]; do
      fetch "$number" "$1" "$2" "$3"
      shift 3
      number=$((number + 1))
      : >"$run/whole.$number"
      echo "fetched $number of $links: $have bytes, $(du -sm "$into" | cut -f1) MiB unpacked"
    done
    cut -d' ' -f1 /proc/uptime >"$run/fetched"
  ) || { echo $? >"$run/broken.new" && mv "$run/broken.new" "$run/broken"; }
} &
shift $((3 * links))
commands=$1
shift
number=0
while [ "$number" -lt "$links" ] || [ "$number" -lt "$commands" ]; do
  number=$((number + 1))
  until [ -e "$run/whole.$number" ] || [ -e "$run/fetched" ]; do
    [ ! -e "$run/broken" ] || { read -r status <"$run/broken"; exit "$status"; }
    sleep 0.1
  done
  [ "$number" -le "$commands" ] || continue
  prepare "$@" || {
    trap '' TERM
    kill -TERM 0
    exit 1
  }
  shift "$(($1 + 1))"
  echo "prepared $number of $commands"
done
wait
read -r ended _ </proc/uptime
read -r fetched <"$run/fetched"
echo "$began $fetched $ended" | awk '{ printf "took %.1f %.1f\n", $2 - $1, $3 - $2 }'
