# Make the folder of generation $2 and remove all but the newest $3, the one in force and $4. $1 the root.
set -eu
cd "$1/generations"
mkdir -p -m 0755 -- "./$2"
keep=$(readlink ../current 2>/dev/null || true)
keep=${keep#generations/}
ls -1 | sort -r | tail -n "+$(($3 + 1))" | while IFS= read -r name; do
    test "$name" = "$keep" || test "$name" = "$4" || rm -rf -- "./$name"
done
