# Read one foreign backup whole, and write what it holds to the store. Arguments after the common two: its folder,
# where the list goes. The list has a line for each file: sha256, size, path.
folder=$1 object=$2
store hashsum sha256 --download "$folder" >"$run/hashes" || die "the store does not give $folder whole"
store lsf --recursive --files-only --format ps --separator '	' "$folder" >"$run/sizes" || die "the store does not list $folder"
awk -F '\t' 'NR == FNR { size[$1] = $2; next }
  { sum = substr($0, 1, 64); path = substr($0, 67); if (!(path in size)) exit 1; print sum "  " size[path] "  " path }' \
  "$run/sizes" "$run/hashes" | sort >"$run/list"
[ -s "$run/list" ] && [ "$(wc -l <"$run/list")" = "$(wc -l <"$run/sizes")" ] || die "$folder changed while it was read"
store copyto "$run/list" "$object" || die "the store did not take the list"
sum=$(sha256sum <"$run/list")
echo "inventory ${sum%% *} $(wc -c <"$run/list")"
