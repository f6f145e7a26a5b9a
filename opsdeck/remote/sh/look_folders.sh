LC_ALL=C; export LC_ALL
for path do
    if [ -L "$path" ]; then echo link
    elif [ -d "$path" ]; then
        filled=filled; [ -n "$(ls -A -- "$path" 2>/dev/null | head -c 1)" ] || filled=empty
        echo "folder $(stat -c '%a %U %G' -- "$path") $filled"
    elif [ -e "$path" ]; then echo other
    else echo absent
    fi
done
echo end
