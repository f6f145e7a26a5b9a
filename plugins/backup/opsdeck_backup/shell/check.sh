# Check every table of a server, the largest first, as many at once as there are cores (four at most). Arguments: a
# place for what is said, client, its options. Sets `good` to how many are sound; says what is not.
check_tables() {
  said=$1
  shift
  set -- "$@" --default-character-set=utf8mb4 -N -B
  lanes=$(nproc)
  [ "$lanes" -le 4 ] || lanes=4
  rm -f "$said".*
  "$@" -r -e "SELECT CONCAT('CHECK TABLE \`', REPLACE(table_schema, '\`', '\`\`'), '\`.\`',
      REPLACE(table_name, '\`', '\`\`'), '\`;') FROM information_schema.tables WHERE table_type = 'BASE TABLE'
      AND table_schema NOT IN ('information_schema', 'performance_schema') ORDER BY data_length + index_length DESC" \
    >"$said.all" || { echo "the tables cannot be listed"; return 1; }
  lane=0
  running=
  while [ "$lane" -lt "$lanes" ]; do
    awk -v lanes="$lanes" -v lane="$lane" 'NR % lanes == lane' "$said.all" >"$said.$lane"
    "$@" <"$said.$lane" >"$said.$lane.out" 2>&1 &
    running="$running $!"
    lane=$((lane + 1))
  done
  sound=y
  for each in $running; do wait "$each" || sound=; done
  cat "$said".*.out >"$said"
  good=$(grep -c '	status	OK$' "$said")
  # Notes of tables that cannot be checked (logs) are no faults.
  bad=$(awk -F '\t' '/^ERROR / || NF > 3 && (tolower($3) ~ /^(error|warning)$/ || tolower($4) ~ /corrupt/)' "$said")
  rm -f "$said".*
  [ -n "$sound" ] && [ -z "$bad" ] && return
  printf '%s\n' "${bad:-$(tail -n 5 "$said")}" | head -n 5
  return 1
}
