# $1 family, $2 table, $3 seconds until it is taken back unless confirmed, $4 the token of this load
set -u; umask 077; LC_ALL=C; export LC_ALL
PATH=$PATH:/usr/sbin:/sbin; export PATH
command -v nft >/dev/null || { echo nonft; exit 91; }
folder=/run/opsdeck/nft; mkdir -p "$folder" || exit 92
new=$folder/$2.$4.new before=$folder/$2.$4.before
cat >"$new" || exit 92
# a load that nobody confirmed is taken back first, so that its timer cannot undo this one
for old in "$folder/$2".*.before; do [ ! -e "$old" ] || { nft -f "$old"; rm -f "$old"; }; done
nft -c -f "$new" || { rm -f "$new"; echo refused; exit 90; }
# what takes it back: an empty table is made so that its removal cannot fail, then what was there follows
{ echo "table $1 $2"; echo "delete table $1 $2"; nft -s list table "$1" "$2" 2>/dev/null; } >"$before"
nft -f "$new" || { rm -f "$new" "$before"; echo refused; exit 90; }
rm -f "$new"
[ "$3" -eq 0 ] && { rm -f "$before"; echo loaded; exit 0; }
setsid sh -c 'sleep "$1"; [ ! -e "$2" ] || { nft -f "$2"; rm -f "$2"; }' sh "$3" "$before" </dev/null >/dev/null 2>&1 &
echo loaded
