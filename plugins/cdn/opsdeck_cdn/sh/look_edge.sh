# Say what an edge is made of now. $1 the root, $2 the folder of Caddy's store.
set -u
printf 'current %s\n' "$(readlink "$1/current" 2>/dev/null | sed 's|^generations/||')"
ss -Hltnp 2>/dev/null | while read -r _ _ _ local _ users; do
    case $local in
        *:80 | *:443) printf 'port %s %s\n' "${local##*:}" "$(printf '%s' "$users" | sed -n 's/^users:(("\([^"]*\)".*/\1/p')" ;;
    esac
done
printf 'clock %s\n' "$(date +%s)"
df -Pk /var/cache 2>/dev/null | awk 'NR == 2 { print "free", $4 }'
find "$2/acme" -path '*/users/*' -type f 2>/dev/null | sort | while IFS= read -r name; do printf 'account %s\n' "$name"; done
echo end
