#!/bin/sh
# Take every tunnel off a gateway, whatever a test left.
ls /etc/systemd/system | grep '^opsdeck-vpn-' | xargs -r systemctl --quiet disable --now
systemctl reset-failed 'opsdeck-vpn-*' 2>/dev/null
rm -rf /etc/opsdeck/vpn /etc/systemd/system/opsdeck-vpn-* /run/opsdeck-vpn
for each in $(ip netns list | cut -d' ' -f1); do ip netns delete "$each"; done
systemctl daemon-reload
