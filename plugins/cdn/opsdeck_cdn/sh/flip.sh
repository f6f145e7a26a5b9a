# Make a generation the one in force; say which was before. $1 the root, $2 the generation's folder name ("" for none).
set -eu
cd "$1"
old=$(readlink current 2>/dev/null || true)
if [ -n "$2" ]; then
    test -d "generations/$2"
    ln -sfn "generations/$2" .current.new
    mv -T .current.new current
else
    rm -f current
fi
printf 'old %s\n' "${old#generations/}"
