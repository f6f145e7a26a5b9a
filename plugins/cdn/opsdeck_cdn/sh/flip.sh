# Make a generation the one in force. $1 the root, $2 the generation's folder name ("" for none).
set -eu
cd "$1"
if [ -n "$2" ]; then
    test -d "generations/$2"
    ln -sfn "generations/$2" .current.new
    mv -T .current.new current
else
    rm -f current
fi
