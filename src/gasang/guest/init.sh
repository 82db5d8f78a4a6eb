#!/bin/sh
# The default guest's first process. The kernel turns NAME=value words of its command line that it does not
# know into this environment: GASANG_SHELL=no leaves out the shell on the console, GASANG_SIZE=ROWSxCOLUMNS
# tells the size of its terminal, GASANG_ROOT=KIND:SOURCE the root filesystem that programs are to see,
# GASANG_PORTS how many named ports there are.

/bin/busybox mount -a
echo gasang >/proc/sys/kernel/hostname

# Drivers, if there are any: of PCI functions and what ACPI names, then of the virtio devices that these are. Others
# the kernel asks for: a file system that is mounted. That of 9P is loaded here: another root has no modules.
if [ -d /lib/modules ]; then
    echo /usr/bin/modprobe >/proc/sys/kernel/modprobe
    for bus in pci acpi virtio; do
        cat /sys/bus/$bus/devices/*/modalias | xargs modprobe -a
    done 2>/dev/null
    [ ! -e /sys/module/9pnet_virtio ] || modprobe 9p
fi

# Ports of a virtio console get names, as udev gives them; they come some time after their driver.
found=0 looks=0 ports=$GASANG_PORTS
unset GASANG_PORTS
while [ -n "$ports" ] && [ $found -lt $ports ] && [ $looks -lt 500 ]; do
    [ $looks = 0 ] || sleep 0.01
    looks=$((looks + 1))
    for port in /sys/class/virtio-ports/*; do
        name=$(cat $port/name 2>/dev/null)
        [ -n "$name" ] && [ ! -e "/dev/virtio-ports/$name" ] || continue
        mkdir -p /dev/virtio-ports
        ln -s ../${port##*/} "/dev/virtio-ports/$name" && found=$((found + 1))
    done
done

gasang=/etc/gasang root=$GASANG_ROOT
unset GASANG_ROOT
[ -z "$root" ] || . $gasang/root.sh

# A network device, if there is one, asks who it is, four times within four seconds at most.
ip link set lo up
if ip link set eth0 up 2>/dev/null; then
    udhcpc -i eth0 -n -q -f -t 4 -T 1 -s $gasang/udhcpc.sh >/dev/null 2>&1
fi

[ -z "$root" ] || exec switch_root /newroot /run/gasang/bin/sh /run/gasang/start.sh
. $gasang/start.sh
