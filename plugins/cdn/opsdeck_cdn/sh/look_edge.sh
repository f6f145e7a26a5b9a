# Say what an edge is made of now. $1 the root, $2 the folder of Caddy's store, $3 Caddy or ""; then names to look up.
set -u
printf 'current %s\n' "$(readlink "$1/current" 2>/dev/null | sed 's|^generations/||')"
ss -Hltunp 2>/dev/null | while read -r kind _ _ _ local _ users; do
    case $kind:$local in
        tcp:*:80 | tcp:*:443 | udp:*:443)
            program=$(printf '%s' "$users" | sed -n 's/^users:(("\([^"]*\)".*/\1/p')
            printf 'port %s %s %s %s\n' "${local##*:}" "$kind" "${local%:*}" "$program" ;;
    esac
done
printf 'clock %s\n' "$(date +%s)"
df -Pk /var/cache 2>/dev/null | awk 'NR == 2 { print "free", $4 }'
find "$2/acme" -path '*/users/*' -type f -exec sha256sum {} + 2>/dev/null | sort | sed 's/^\([0-9a-f]*\)  /account \1 /'
test ! -x "$3" || printf 'caddy %s\n' "$(timeout 5 "$3" version 2>/dev/null | head -n 1 | cut -d ' ' -f 1)"
shift 3
for name; do
    timeout 5 getent ahosts "$name" | cut -d ' ' -f 1 | sort -u | while IFS= read -r address; do
        printf 'name %s %s\n' "$name" "$address"
    done
done
echo end
