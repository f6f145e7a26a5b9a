LC_ALL=C; export LC_ALL
command -v apt-get >/dev/null && command -v dpkg-query >/dev/null || { echo noapt; exit 91; }
dpkg-query -W -f 'have ${Package} ${Architecture} ${db:Status-Status} ${Version}\n' -- "$@" 2>/dev/null
for name do
    apt-cache policy -- "$name" 2>/dev/null | while read -r key value rest; do
        [ "$key" != Candidate: ] || echo "candidate $name $value"
    done
done
apt-mark showhold | while read -r name; do echo "hold $name"; done
[ ! -e /run/reboot-required ] || echo reboot
newest=0
for file in /var/lib/apt/lists/*_Packages /var/lib/apt/lists/*_InRelease; do
    [ -e "$file" ] || continue
    at=$(stat -c %Y -- "$file"); [ "$at" -le "$newest" ] || newest=$at
done
at=$(stat -c %Y /var/lib/apt/periodic/update-success-stamp 2>/dev/null || echo 0); [ "$at" -le "$newest" ] || newest=$at
echo "lists $newest $(date +%s)"
echo end
