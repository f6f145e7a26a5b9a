#!/bin/sh
# The network side of one office tunnel. Everything the server sends is data: it is compared with patterns and passed
# as single words, never evaluated.
# shellcheck disable=SC2086 # $inside is words, or none
set -eu
umask 022
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
word=$1
name=$2
ns=ov-$name
device=ov-$name
room=/run/opsdeck-vpn/$name
folder=/etc/opsdeck/vpn/$name
here=/run/opsdeck-here # in a container that is the tunnel's network by itself
inside="-n $ns"
[ ! -e $here ] || inside=

# Written in place: services have these files mounted by inode.
no_names() { echo '# the tunnel is down: no name is known' >"$room/resolv.conf"; }

address() { # does $1 look like an address
    case $1 in '' | *[!0-9A-Fa-f.:/]*) return 1 ;; *) return 0 ;; esac
}

domain() { # does $1 look like a name
    case $1 in '' | -* | .* | *[!A-Za-z0-9._-]*) return 1 ;; *) return 0 ;; esac
}

route() { # $1 network/mask
    if address "$1" && ip $inside route replace "$1" dev "$device" 2>/dev/null; then
        echo "route $1" >>"$room/pushed.new"
    else
        echo "refused route" >>"$room/pushed.new"
    fi
}

begin() { : >"$room/pushed.new"; : >"$room/names.new"; }

name_server() {
    address "$1" || return 0
    echo "nameserver $1" >>"$room/names.new"
    echo "dns $1" >>"$room/pushed.new"
}

search() {
    domain "$1" || return 0
    echo "search $1" >>"$room/names.new"
    echo "domain $1" >>"$room/pushed.new"
}

finish() {
    if grep -q '^nameserver' "$room/names.new"; then
        cat "$room/names.new" >"$room/resolv.conf"
    else
        no_names
    fi
    mv "$room/pushed.new" "$room/pushed"
}

case $word in
open)
    mkdir -p "$room"
    [ -e "/run/netns/$ns" ] || ip netns add "$ns"
    ip $inside link set dev lo up
    no_names
    ;;
close)
    ip netns delete "$ns" 2>/dev/null || :
    rm -rf "$room"
    ;;
up | route-up) # called by OpenVPN, with what the server pushed in the environment
    if [ -n "$inside" ] && ip link show dev "$device" >/dev/null 2>&1; then ip link set dev "$device" netns "$ns"; fi
    ip $inside link set dev "$device" up mtu "${tun_mtu:-1500}"
    if [ -n "${ifconfig_local-}" ]; then
        if [ -n "${ifconfig_netmask-}" ]; then
            ip $inside address replace "$ifconfig_local/$ifconfig_netmask" dev "$device"
        else
            ip $inside address replace "$ifconfig_local" peer "$ifconfig_remote" dev "$device"
        fi
    fi
    if [ -n "${ifconfig_ipv6_local-}" ]; then
        ip $inside -6 address replace "$ifconfig_ipv6_local/${ifconfig_ipv6_netbits:-64}" dev "$device" nodad ||
            echo "IPv6 is switched off in this network: what the office pushes of it is left out" >&2
    fi
    [ "$word" = route-up ] || exit 0
    begin
    if [ -n "${redirect_gateway-}" ]; then route 0.0.0.0/0; fi
    i=1
    while eval "network=\${route_network_$i-}" && [ -n "$network" ]; do
        eval "mask=\${route_netmask_$i-255.255.255.255}"
        route "$network/$mask"
        i=$((i + 1))
    done
    i=1
    while eval "network=\${route_ipv6_network_$i-}" && [ -n "$network" ]; do
        route "$network"
        i=$((i + 1))
    done
    i=1
    while eval "option=\${foreign_option_$i-}" && [ -n "$option" ]; do
        case $option in
        'dhcp-option DNS '*) name_server "${option#dhcp-option DNS }" ;;
        'dhcp-option DNS6 '*) name_server "${option#dhcp-option DNS6 }" ;;
        'dhcp-option DOMAIN '*) search "${option#dhcp-option DOMAIN }" ;;
        'dhcp-option DOMAIN-SEARCH '*) search "${option#dhcp-option DOMAIN-SEARCH }" ;;
        'dhcp-option ADAPTER_DOMAIN_SUFFIX '*) search "${option#dhcp-option ADAPTER_DOMAIN_SUFFIX }" ;;
        esac
        i=$((i + 1))
    done
    finish
    ;;
wg-run) # the kernel's WireGuard where there is one, else the one in user space; the UDP socket stays out here
    if ip link add dev "$device" type wireguard 2>/dev/null; then exec sleep infinity; fi
    WG_PROCESS_FOREGROUND=1 exec wireguard-go "$device"
    ;;
wg-up)
    i=0
    until ip link show dev "$device" >/dev/null 2>&1; do
        i=$((i + 1))
        [ "$i" -lt 50 ] || { echo "the device $device did not appear" >&2; exit 1; }
        sleep 0.1
    done
    wg setconf "$device" "$folder/wg.conf"
    mtu=$(sed -n 's/^#:mtu //p' "$folder/wg.conf")
    ip link set dev "$device" mtu "$mtu" up
    ip link set dev "$device" netns "$ns"
    for each in $(sed -n 's/^#:address //p' "$folder/wg.conf"); do ip $inside address replace "$each" dev "$device"; done
    ip $inside link set dev "$device" up
    begin
    for each in $(sed -n 's/^#:route //p' "$folder/wg.conf"); do route "$each"; done
    for each in $(sed -n 's/^#:dns //p' "$folder/wg.conf"); do name_server "$each"; done
    for each in $(sed -n 's/^#:domain //p' "$folder/wg.conf"); do search "$each"; done
    finish
    ;;
wg-down)
    ip $inside link delete dev "$device" 2>/dev/null || ip link delete dev "$device" 2>/dev/null || :
    no_names
    ;;
wg-seen) # of each peer: when it shook hands; how much came and went
    ip netns exec "$ns" wg show "$device" latest-handshakes
    ip netns exec "$ns" wg show "$device" transfer
    ;;
sizes) # inside the tunnel's network. $3: a port of the office that somebody is connected to. Says how large packets may
    # be, which come back, and how large TCP makes its own
    # shellcheck disable=SC2046
    set -- $(ss -Htin state established "dport = :$3" | head -n 2)
    [ $# -gt 4 ] || exit 0
    office=$4 mss=0
    for each in "$@"; do case $each in mss:*) mss=${each#mss:} ;; esac done
    office=${office%:*}
    office=${office#[}
    office=${office%]}
    case $office in *:*) head=48 ;; *) head=28 ;; esac
    heard() {
        ping -n -q -c 2 -i 0.2 -W 1 -M do -s "$(($1 - head))" "$office" >/dev/null 2>&1
    }
    whole=$(ip -o link show dev "$device" | sed -n 's/.* mtu \([0-9]*\) .*/\1/p')
    low=128 high=$whole
    if ! heard $low; then low=0; elif heard "$high"; then low=$high; else
        while [ $((high - low)) -gt 16 ]; do
            middle=$(((low + high) / 2))
            if heard $middle; then low=$middle; else high=$middle; fi
        done
    fi
    echo "$whole $low $mss"
    ;;
dial) # the first program of a container; who serves the port may begin no connection but into the tunnel
    : >$here
    rm -f "$room/paused"
    no_names
    nft -f - <<RULES
table inet opsdeck {
    chain out {
        type filter hook output priority 0;
        meta skuid 20080 oifname != { "lo", "$device" } ct direction original counter reject
    }
}
RULES
    while :; do
        [ -e "$room/paused" ] || openvpn --suppress-timestamps --config "$folder/client.conf" --writepid "$room/pid" || :
        sleep 2
    done
    ;;
pause) # until `resume` nothing dials
    : >"$room/paused"
    kill "$(cat "$room/pid")"
    ;;
resume)
    rm -f "$room/paused"
    ;;
*)
    echo "$word is no word of this script" >&2
    exit 2
    ;;
esac
