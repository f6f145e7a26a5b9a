# Read what foreign backups say of themselves. Arguments after the common two: the folder that holds them, the backups.
# Of each a line: its name, its checkpoints and its info, base64, "-" for what it lacks.
folder=$1
shift
for backup in "$@"; do
  line=$backup
  for kind in checkpoints info; do
    found=-
    for file in "xtrabackup_$kind" "xtrabackup_$kind.zst" "mariadb_backup_$kind" "mariadb_backup_$kind.zst"; do
      store cat "$folder/$backup/$file" >"$run/file" 2>/dev/null && [ -s "$run/file" ] || continue
      case $file in *.zst) zstd -dcq "$run/file" >"$run/plain" || continue ;; *) mv "$run/file" "$run/plain" ;; esac
      found=$(base64 -w0 "$run/plain")
      break
    done
    line="$line $found"
  done
  printf '%s\n' "$line"
done
echo end
