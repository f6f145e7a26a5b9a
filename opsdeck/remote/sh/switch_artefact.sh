# $1 name, $2 version, $3 how many versions stay, $4 `forced` to pass a hold
set -u; LC_ALL=C; export LC_ALL
home=/opt/opsdeck/artefacts/$1
[ -d "$home/$2" ] || { echo missing; exit 90; }
now=; [ ! -L "$home/current" ] || now=$(readlink -- "$home/current")
[ "$now" != "$2" ] || { echo same; exit 0; }
[ ! -e "$home/hold" ] || [ "$4" = forced ] || { echo "held $(head -c 200 "$home/hold")"; exit 90; }
point() { ln -s -- "$2" "$home/.$1.new" && mv -f -T -- "$home/.$1.new" "$home/$1"; }
rm -f -- "$home/.current.new" "$home/.previous.new"
[ -z "$now" ] || point previous "$now" || exit 92
point current "$2" || exit 92
# the oldest go, never what runs now or ran before
count=0
ls -1t -- "$home" | while read -r old; do
    [ -d "$home/$old" ] && [ ! -L "$home/$old" ] || continue
    count=$((count + 1))
    [ "$count" -gt "$3" ] && [ "$old" != "$2" ] && [ "$old" != "$now" ] && rm -rf -- "$home/$old"
done
echo "switched $now"
