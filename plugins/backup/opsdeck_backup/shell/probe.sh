# Look at a database server and its tools. Arguments: engine's tool, client, rclone, the server's program, SQL for
# version, data folder and the server's own name. Standard input: an options file.
set -u
umask 077
LC_ALL=C
export LC_ALL
PATH=$PATH:/usr/sbin:/sbin
tool=$1 client=$2 rclone=$3 server=$4 facts=$5
options=$(mktemp /dev/shm/.opsdeck.XXXXXXXXXX) || exit 1
trap 'rm -f "$options"' EXIT
cat >"$options"
echo "machine $(uname -m)"
echo "cores $(nproc)"
echo "tool $("$tool" --version 2>&1 | tail -n 1)"
for program in zstd age perl "$client"; do command -v "$program" >/dev/null || echo "lacks $program"; done
echo "rclone $("$rclone" version 2>/dev/null | head -n 1)"
command -v "$server" >/dev/null && echo "server_program $("$server" --version)"
ask() { "$client" --defaults-extra-file="$options" -N -B -r -e "$1" 2>"$options.err"; }
if facts=$(ask "$facts"); then
  printf '%s\n' "$facts" | { IFS='	' read -r version data id; echo "version $version"; echo "data $data"; echo "id $id"; }
  data=$(printf '%s' "$facts" | cut -f2)
  echo "lsn $(ask "SHOW ENGINE INNODB STATUS" | sed -n 's/^Log sequence number *//p' | head -n 1)"
  ask "SHOW GRANTS" | sed 's/^/grant /'
  echo "birth $(stat -c '%i.%W' "$data/ibdata1")"
  echo "used $(du -sm "$data" | cut -f1)"
else
  echo "fault $(tail -n 1 "$options.err")"
fi
rm -f "$options.err"
echo end
