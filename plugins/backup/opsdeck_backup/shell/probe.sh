# Look at a database server and its tools. Arguments: engine's tool, client, rclone. Standard input: an options file.
set -u
umask 077
LC_ALL=C
export LC_ALL
PATH=$PATH:/usr/sbin:/sbin
tool=$1 client=$2 rclone=$3
options=$(mktemp /dev/shm/.opsdeck.XXXXXXXXXX) || exit 1
trap 'rm -f "$options"' EXIT
cat >"$options"
echo "machine $(uname -m)"
echo "cores $(nproc)"
echo "tool $("$tool" --version 2>&1 | tail -n 1)"
for program in zstd age "$client"; do command -v "$program" >/dev/null || echo "lacks $program"; done
echo "rclone $("$rclone" version 2>/dev/null | head -n 1)"
command -v mariadbd >/dev/null && echo "server_program $(mariadbd --version)"
ask() { "$client" --defaults-extra-file="$options" -N -B -e "$1" 2>"$options.err"; }
if facts=$(ask "SELECT VERSION(), @@datadir, @@server_id"); then
  printf '%s\n' "$facts" | { IFS='	' read -r version data id; echo "version $version"; echo "data $data"; echo "id $id"; }
  data=$(printf '%s' "$facts" | cut -f2)
  echo "lsn $(ask "SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'INNODB_LSN_CURRENT'")"
  ask "SHOW GRANTS" | sed 's/^/grant /'
  echo "birth $(stat -c '%i.%W' "$data/ibdata1")"
  echo "used $(du -sm "$data" | cut -f1)"
else
  echo "fault $(tail -n 1 "$options.err")"
fi
rm -f "$options.err"
echo end
