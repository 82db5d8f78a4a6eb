#!/bin/sh
# The default guest's first process. The kernel turns NAME=value words of its command line that it does not
# know into this environment: GASANG_SHELL=no leaves out the shell on the console, GASANG_SIZE=ROWSxCOLUMNS
# tells the size of its terminal.

/bin/busybox mount -a
echo gasang >/proc/sys/kernel/hostname

# Drivers, if there are any: of PCI functions, then of the virtio devices that these are.
if [ -d /lib/modules ]; then
    for bus in pci virtio; do
        cat /sys/bus/$bus/devices/*/modalias | xargs modprobe -a
    done 2>/dev/null
fi

# A network device asks who it is, four times within four seconds at most.
ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
    ip link set eth0 up
    udhcpc -i eth0 -n -q -f -t 4 -T 1 -s /etc/gasang/udhcpc.sh >/dev/null 2>&1
fi

shell=$GASANG_SHELL size=$GASANG_SIZE
unset GASANG_SHELL GASANG_SIZE
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root
cd /root || exit

# The agent behind vsock. "&" makes it ignore SIGINT; that its commands do not is its own care.
[ ! -x /usr/bin/gasang-agent ] || gasang-agent </dev/null >/dev/null 2>&1 &

agent() {
    exec sh /etc/gasang/agent.sh <>/dev/ttyS1 >&0 2>/dev/null
}

# A shell with job control needs a session that has the console as its controlling terminal.
console() {
    [ "$shell" != no ] || return
    [ -z "$size" ] || stty -F /dev/ttyS0 rows "${size%x*}" cols "${size#*x}"
    export PS1='gasang:\w\$ '
    setsid -c sh <>/dev/ttyS0 >&0 2>&1
    echo "shell $?" >/dev/ttyS1
    poweroff -f
}

# Joined by a pipe, which neither uses, because "&" would make the agent and all its children ignore SIGINT.
# The agent does not end; meanwhile this process adopts and reaps orphans.
agent | console
