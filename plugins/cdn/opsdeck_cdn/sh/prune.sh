# Remove all generations but the newest $2 and the one in force. $1 the root.
set -eu
cd "$1/generations"
keep=$(readlink ../current 2>/dev/null || true)
keep=${keep#generations/}
ls -1 | sort -r | tail -n "+$(($2 + 1))" | while IFS= read -r name; do
    test "$name" = "$keep" || rm -rf -- "./$name"
done
