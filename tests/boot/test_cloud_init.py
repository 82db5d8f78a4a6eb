"""A seed, read by cloud-init itself: a Debian without anything of ours learns who it is, and gets the agent.

make disks
"""

import pytest

from gasang import Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0000000000000000000000000000000000000000000 who"
LOCALE = "echo 'locale: false' >/etc/cloud/cloud.cfg.d/90_locale.cfg"
"""Which is an image's business: this one has C alone."""

STRIP = "systemd-run sh -c 'dpkg -P gasang-agent; rm -rf /var/lib/cloud; sync; systemctl poweroff'"


@pytest.fixture(scope="module")
def disk(gasang, tmp_path_factory):
    """A Debian with cloud-init, as images for clouds are: without gasang's agent, and booted but for that."""
    disk = tmp_path_factory.mktemp("cloud") / "debian.qcow2"
    words = ("image", "build", "-q", "debian", disk, "--disk", "3G", "--include", "cloud-init,openssh-server")
    done = gasang(*words, timeout=1500)
    assert done.returncode == 0, done.stderr.decode()
    with Machine.boot(bios="seabios", drives=[disk], vsock=True, memory="1G", accel="bt") as vm:
        vm.run(LOCALE, timeout=600, check=True)
        vm.run(STRIP, timeout=600, check=True)
        assert vm.wait(300).reason == "power-off"
    return disk


def test_cloud_init_reads_the_seed(gasang, disk, tmp_path):
    (tmp_path / "key.pub").write_text(KEY + "\n")
    seed = tmp_path / "seed.iso"
    words = ("image", "seed", seed, "--hostname", "box", "--ssh-key", tmp_path / "key.pub", "--agent")
    assert gasang(*words).returncode == 0
    drives = [disk, f"file={seed},readonly=on"]
    with Machine.boot(bios="seabios", drives=drives, vsock=True, net="user", memory="1G", accel="bt") as vm:
        assert b"status: done" in vm.run("cloud-init status --wait", timeout=1200).stdout
        said = vm.run("cloud-id; hostname; cat ~debian/.ssh/authorized_keys", check=True).stdout
        assert said.decode().splitlines() == ["nocloud", "box", KEY]
        assert vm.run("systemctl is-enabled gasang-agent").stdout == b"enabled\n"
