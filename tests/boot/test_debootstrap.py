"""What debootstrap installs on a disk, with GRUB in its boot record, boots from there: none of it is ours.

make disks
"""

import pytest

from gasang import Machine
from gasang.storage.create import create_raw

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

INSTALL = """\
set -e
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
printf 'label: dos\\nstart=2048, type=83, bootable\\n' | sfdisk -q /dev/vda
mkfs.ext4 -q /dev/vda1
mkdir /disk
mount /dev/vda1 /disk
apt-get -q update >&2
mirror=$(apt-get indextargets --format '$(SITE) $(CODENAME)' | head -1)
debootstrap --include=linux-image-cloud-amd64,grub-pc ${mirror#* } /disk ${mirror% *} >&2
cd /disk
for name in dev proc sys; do mount --bind /$name $name; done
echo "UUID=$(blkid -s UUID -o value /dev/vda1) / ext4 errors=remount-ro 0 1" >etc/fstab
echo proof >etc/hostname
chroot . passwd -q -d root
printf 'GRUB_TIMEOUT=0\\nGRUB_CMDLINE_LINUX=console=ttyS0\\nGRUB_TERMINAL=serial\\n' >etc/default/grub
chroot . grub-install --target=i386-pc /dev/vda >&2
chroot . update-grub >&2
cd /
umount -R /disk
"""


def test_what_debootstrap_installed_boots_from_its_own_boot_record(gasang, tmp_path):
    builder, disk = tmp_path / "builder.tar", tmp_path / "disk.img"
    words = ("image", "build", "-q", "debian", builder, "--include", "debootstrap,e2fsprogs,fdisk,mount")
    assert gasang(*words, timeout=1500).returncode == 0
    create_raw(disk, 3 << 30)
    with Machine.boot(
        rootfs=builder, drives=[disk], net="user,allow=any", vsock=True, memory="2G", cpus=2, accel="bt"
    ) as vm:
        done = vm.run(INSTALL, timeout=2400)
        assert done.returncode == 0, done.stderr[-4000:].decode(errors="replace")
    with Machine.boot(bios="seabios", drives=[disk], memory="1G", accel="bt") as vm:
        console = vm.console
        console.expect("Booting from Hard Disk", timeout=120)
        console.expect("proof login: ", timeout=600)
        console.write("root\n")
        console.expect(r"root@proof:~# ", timeout=120)
        console.write("systemctl is-system-running --wait; head -1 /proc/cmdline; echo $((6 * 7)) done\n")
        console.expect("42 done", timeout=600)
        said = console.log.decode(errors="replace")
        assert "running\r\n" in said
        assert "BOOT_IMAGE=/boot/vmlinuz-" in said
        console.write("poweroff\n")
        assert vm.wait(300).reason == "power-off"
