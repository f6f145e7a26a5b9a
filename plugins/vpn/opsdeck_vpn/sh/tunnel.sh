#!/bin/sh
# The network side of one office tunnel. Everything the server sends is data: it is compared with patterns and passed
# as single words, never evaluated.
set -eu
umask 022
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
word=$1
name=$2
ns=ov-$name
device=ov-$name
room=/run/opsdeck-vpn/$name
folder=/etc/opsdeck/vpn/$name

# Written in place: services have these files mounted by inode.
no_names() { echo '# the tunnel is down: no name is known' >"$room/resolv.conf"; }

address() { # does $1 look like an address
    case $1 in '' | *[!0-9A-Fa-f.:/]*) return 1 ;; *) return 0 ;; esac
}

domain() { # does $1 look like a name
    case $1 in '' | -* | .* | *[!A-Za-z0-9._-]*) return 1 ;; *) return 0 ;; esac
}

route() { # $1 network/mask
    if address "$1" && ip -n "$ns" route replace "$1" dev "$device" 2>/dev/null; then
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
    ip -n "$ns" link set dev lo up
    no_names
    ;;
close)
    ip netns delete "$ns" 2>/dev/null || :
    rm -rf "$room"
    ;;
up | route-up) # called by OpenVPN, with what the server pushed in the environment
    if ip link show dev "$device" >/dev/null 2>&1; then ip link set dev "$device" netns "$ns"; fi
    ip -n "$ns" link set dev "$device" up mtu "${tun_mtu:-1500}"
    if [ -n "${ifconfig_local-}" ]; then
        if [ -n "${ifconfig_netmask-}" ]; then
            ip -n "$ns" address replace "$ifconfig_local/$ifconfig_netmask" dev "$device"
        else
            ip -n "$ns" address replace "$ifconfig_local" peer "$ifconfig_remote" dev "$device"
        fi
    fi
    if [ -n "${ifconfig_ipv6_local-}" ]; then
        ip -n "$ns" -6 address replace "$ifconfig_ipv6_local/${ifconfig_ipv6_netbits:-64}" dev "$device" nodad
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
    for each in $(sed -n 's/^#:address //p' "$folder/wg.conf"); do ip -n "$ns" address replace "$each" dev "$device"; done
    ip -n "$ns" link set dev "$device" up
    begin
    for each in $(sed -n 's/^#:route //p' "$folder/wg.conf"); do route "$each"; done
    for each in $(sed -n 's/^#:dns //p' "$folder/wg.conf"); do name_server "$each"; done
    for each in $(sed -n 's/^#:domain //p' "$folder/wg.conf"); do search "$each"; done
    finish
    ;;
wg-down)
    ip -n "$ns" link delete dev "$device" 2>/dev/null || ip link delete dev "$device" 2>/dev/null || :
    no_names
    ;;
socks) # the password goes from its file into the program, which wipes it from its arguments at once
    read -r user <"$CREDENTIALS_DIRECTORY/user"
    read -r password <"$CREDENTIALS_DIRECTORY/password"
    exec microsocks -i 127.0.0.1 -p 1080 -u "$user" -P "$password"
    ;;
*)
    echo "$word is no word of this script" >&2
    exit 2
    ;;
esac
