LC_ALL=C; export LC_ALL
limit=$1; shift
for path do
    parent=${path%/*}; [ -n "$parent" ] || parent=/
    if [ -L "$path" ]; then echo link
    elif [ -d "$path" ]; then echo "folder $(stat -c '%a %U %G' -- "$path")"
    elif [ -f "$path" ] && [ -r "$path" ]; then
        size=$(stat -c %s -- "$path"); digest=$(sha256sum <"$path"); body=
        [ "$size" -gt "$limit" ] || body=$(base64 -w 0 <"$path")
        echo "file $(stat -c '%a %U %G' -- "$path") $size ${digest%% *} =$body"
    elif [ -f "$path" ] || { [ -d "$parent" ] && [ ! -x "$parent" ]; }; then echo denied
    elif [ -e "$path" ]; then echo other
    elif [ -d "$parent" ]; then echo absent
    else echo orphan
    fi
done
echo end
