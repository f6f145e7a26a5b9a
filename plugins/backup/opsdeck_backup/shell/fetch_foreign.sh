# Fetch one foreign backup into an empty folder and compare it with the list that was made when it was taken over.
# Arguments after the common two: folder, where it lies, the list, the list's sha256.
folder=$1 source=$2 object=$3 sha=$4
mkdir -p "$folder" || die "no folder $folder"
[ -z "$(ls -A "$folder")" ] || die "$folder is not empty"
store cat "$object" >"$run/list" || die "the store does not give the list of its files"
got=$(sha256sum <"$run/list")
[ "${got%% *}" = "$sha" ] || die "the list of its files was changed in the store"
(while sleep 10; do echo "$(du -sm "$folder" | cut -f1) MiB"; done) &
progress=$!
store copy "$source" "$folder" || die "the store did not give it whole"
kill "$progress" 2>/dev/null
progress=
sed 's/^\(.\{64\}\)  [0-9]*  /\1  /' "$run/list" >"$run/sums"
(cd "$folder" && sha256sum --quiet -c "$run/sums") >"$run/bad" 2>&1 || { head -n 5 "$run/bad"; die "what the store has was changed since it was taken over"; }
[ "$(find "$folder" -type f | wc -l)" = "$(wc -l <"$run/list")" ] || die "the store has more files of it than were taken over"
find "$folder" -name '*.zst' -exec zstd -dq --rm {} + || die "it could not be unpacked"
echo "fetched and compared, $(du -sm "$folder" | cut -f1) MiB"
