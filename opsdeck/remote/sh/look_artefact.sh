LC_ALL=C; export LC_ALL
home=/opt/opsdeck/artefacts/$1
echo "machine $(uname -m)"
for link in current previous; do
    [ ! -L "$home/$link" ] || echo "$link $(readlink -- "$home/$link")"
done
[ ! -e "$home/hold" ] || echo "hold $(head -c 200 "$home/hold" | tr '\n' ' ')"
for folder in "$home"/*/; do
    [ -d "$folder" ] && [ ! -L "${folder%/}" ] || continue
    version=${folder%/}; version=${version##*/}
    for file in "$folder"*; do
        [ -f "$file" ] || continue
        digest=$(sha256sum <"$file"); echo "have $version ${digest%% *} ${file##*/}"
    done
done
echo end
