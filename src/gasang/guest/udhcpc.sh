#!/bin/sh
# What the guest does with what a DHCP server tells (udhcpc's script: its argument says why, the environment what).

[ "$1" = bound ] || [ "$1" = renew ] || exit 0
[ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
ip addr replace "$ip/${mask:-24}" dev "$interface"
for gateway in $router; do
    ip route replace default via "$gateway"
done
for server in $dns; do
    echo "nameserver $server"
done >/etc/resolv.conf
