# Mounts the root filesystem that "$root" names at /newroot, and in it what every guest has. Part of init.sh.

lost() {
    echo "gasang: the root filesystem cannot be mounted: $1" >/dev/console
    poweroff -f
}

modprobe -a overlay "${root%%:*}" 2>/dev/null
mkdir /lower /upper /newroot
why=$(mount -t "${root%%:*}" -o ro "${root#*:}" /lower 2>&1) || lost "$why"

# What is written goes to memory.
mount -t tmpfs -o mode=755 tmpfs /upper
mkdir /upper/data /upper/work
why=$(mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /newroot 2>&1) ||
    lost "$why"

# An image may have none of these, and links in their places that are not for here.
for name in dev proc sys run; do
    [ ! -L /newroot/$name ] || rm /newroot/$name
    mkdir -p /newroot/$name && mount --move /$name /newroot/$name
done
[ -e /newroot/root ] || mkdir -m 700 /newroot/root
[ -e /newroot/tmp ] || mkdir -m 1777 /newroot/tmp
[ -d /newroot/etc ] || mkdir /newroot/etc
[ -e /newroot/etc/hosts ] || echo "127.0.0.1 localhost" >/newroot/etc/hosts

# Tools of ours, which an image need not have.
cp -a $gasang /newroot/run/gasang
mkdir /newroot/run/gasang/bin
cp /bin/busybox /newroot/run/gasang/bin/
cp /usr/bin/gasang-agent /newroot/run/gasang/bin/
chroot /newroot /run/gasang/bin/busybox --install -s /run/gasang/bin
# What the network says of names is for there.
rm -f /newroot/etc/resolv.conf
ln -sf /newroot/etc/resolv.conf /etc/resolv.conf
