"""Guests with a root filesystem of the user's: folders and container images."""

import hashlib
import io
import os
import shutil
import stat
import tarfile

import pytest
from container_images import ImageMaker

from gasang import Machine
from gasang.errors import ConfigError, RootFilesystemError
from gasang.guest import default_initrd
from gasang.guest.cache import cache_directory

PASSWD = "root:x:0:0::/root:/bin/sh\napp:x:1234:1235::/srv/app:/bin/sh\n"
TOOLS = ("sh", "id", "cat", "ls", "stat", "find", "sort", "xargs", "sha256sum", "touch", "sleep", "readlink")
CONFIG = {
    "Env": ["PATH=/bin", "FOO=bar"],
    "WorkingDir": "/box",
    "User": "app",
    "Cmd": ["sh", "-c", "echo $FOO; id -u"],
}


def fill(root):
    """A small system with files of several sizes."""
    for name in ("bin", "etc", "box", "many"):
        (root / name).mkdir()
    default_initrd()
    shutil.copy(cache_directory() / "guest/busybox-static/busybox", root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    for name in TOOLS:
        os.link(root / "bin/busybox", root / "bin" / name)
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text("staff:x:50:\n")
    for number in range(400):
        (root / "many" / f"{number:03}-{'x' * (number // 2)}").write_bytes(os.urandom(number * 37))
    (root / "hole").write_bytes(bytes(100_000) + b"end")
    (root / "link").symlink_to("box/none")
    (root / "box").chmod(0o1777)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A root filesystem as a folder."""
    root = tmp_path_factory.mktemp("folder")
    fill(root)
    return root


@pytest.fixture(scope="module")
def image(folder, tmp_path_factory):
    """The same as a container image of two layers, the second with other owners, and a device node."""
    lower, upper = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=lower, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(folder, ".")
    with tarfile.open(fileobj=upper, mode="w", format=tarfile.PAX_FORMAT) as archive:
        null = tarfile.TarInfo("many/null")
        null.type, null.devmajor, null.devminor, null.mode, null.uid = tarfile.CHRTYPE, 1, 3, 0o666, 1234
        archive.addfile(null)
        archive.addfile(tarfile.TarInfo(".wh.hole"))
    path = tmp_path_factory.mktemp("image") / "image.tar"
    path.write_bytes(ImageMaker(lower.getvalue(), upper.getvalue(), **CONFIG).pack())
    return path


@pytest.fixture(scope="module")
def guest(image):
    with Machine.boot(rootfs=image, accel="bt") as machine:
        yield machine


def sums_of(root):
    """The content of every file, by its path."""
    return {
        "/" + str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if stat.S_ISREG(path.lstat().st_mode)
    }


def sums_in(machine):
    script = "find / -xdev -type f ! -path '/etc/hosts' -print0 | xargs -0 sha256sum"
    lines = machine.run(script, user="0", check=True, timeout=120).stdout.decode().splitlines()
    return {line[66:]: line[:64] for line in lines}


def test_the_kernel_reads_the_image_as_it_was(guest, folder):
    expected = sums_of(folder)
    del expected["/hole"]
    assert sums_in(guest) == expected


def test_owners_modes_links_and_devices_are_the_images(guest):
    script = (
        "stat -c '%F %a %u %g %h %t:%T' /many/null /bin/sh /link /box; readlink /link; echo x >/many/null"
    )
    assert guest.run(script, user="0", check=True).stdout.decode().splitlines() == [
        "character special file 666 1234 0 1 1:3",
        f"regular file 755 {os.geteuid()} {os.getegid()} {len(TOOLS) + 1} 0:0",
        f"symbolic link 777 {os.geteuid()} {os.getegid()} 1 0:0",
        f"directory 1777 {os.geteuid()} {os.getegid()} 2 0:0",
        "box/none",
    ]


def test_commands_have_the_images_user_directory_and_environment(guest):
    done = guest.run("id -u; id -g; echo $PWD $FOO $HOME $PATH", check=True)
    assert done.stdout.decode().splitlines() == ["1234", "1235", "/box bar /srv/app /bin"]


def test_a_command_may_have_others(guest):
    done = guest.run(
        "id -u; id -g; echo $PWD $FOO", env={"FOO": "x"}, cwd="/etc", user="77:staff", check=True
    )
    assert done.stdout.decode().splitlines() == ["77", "50", "/etc x"]


def test_a_user_that_is_not_there_is_told(guest):
    for user, why in (("nobody", "no user nobody"), ("app:wheel", "no group wheel")):
        done = guest.run("true", user=user)
        assert (done.returncode, why in done.stderr.decode()) == (126, True), done.stderr


def test_clones_have_the_same_root_and_write_apart(guest):
    with guest.fork()[0] as clone:
        clone.run("touch /box/mine", check=True)
        assert clone.run("id -u; ls /box", check=True).stdout == b"1234\nmine\n"
    assert guest.run("ls /box", check=True).stdout == b""


def test_a_snapshot_of_it_restores(guest, tmp_path):
    guest.snapshot(tmp_path / "it.snap")
    with Machine.restore(tmp_path / "it.snap") as other:
        assert other.run("echo $FOO; ls /box").stdout == b"bar\n"


@pytest.mark.parametrize("kind", ["virtiofs", "9p"])
def test_a_folder_is_a_root_that_is_not_written(folder, tmp_path, kind):
    before = sums_of(folder)
    (tmp_path / "more").mkdir()
    with Machine.boot(rootfs=folder, folders=[f"{tmp_path}/more:/mnt/more:{kind}"]) as machine:
        assert sums_in(machine) == before
        machine.run("touch /new /mnt/more/new; ls /new", check=True)
        assert machine.run("id -u; echo $PWD").stdout == b"0\n/root\n"
    assert sums_of(folder) == before
    assert os.listdir(tmp_path / "more") == ["new"]


@pytest.mark.parametrize("kind", ["folder", "image"])
def test_it_has_the_network(kind, request):
    """Which its own files need not know how to set up."""
    with Machine.boot(rootfs=request.getfixturevalue(kind), net="user", accel="bt") as machine:
        found = machine.run("cat /etc/resolv.conf; cat /proc/net/route", timeout=120, check=True).stdout
    server, _, route, *_ = found.decode().splitlines()
    assert server == "nameserver 10.0.2.3"
    assert route.split()[:3] == ["eth0", "00000000", "0202000A"], "by way of 10.0.2.2"


def test_the_command_line_runs_the_images_command(gasang, image):
    for _ in range(2):  # the second in the snapshot that the first leaves
        done = gasang("run", "-q", "--rootfs", image)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"bar\n1234\n", b"")


def test_the_command_line_says_who_and_where(gasang, image):
    words = ("-e", "FOO=x", "-e", "BAR=y", "-w", "/etc", "-u", "0")
    done = gasang(
        "run", "-q", "--rootfs", image, *words, "--", "sh", "-c", "id -u; echo $FOO $BAR $PWD; exit 7"
    )
    assert (done.returncode, done.stdout) == (7, b"0\nx y /etc\n")


def test_a_folder_without_a_command_is_a_shell(gasang, folder):
    done = gasang("run", "-q", "--rootfs", folder, input=b"echo $((6 * 7)); exit 3\n")
    assert (done.returncode, done.stdout) == (3, b"42\n")


def test_a_machine_in_the_background_has_it_too(gasang, image):
    name = f"rootfs-{os.getpid()}"
    assert gasang("run", "-q", "-d", "--name", name, "--rootfs", image).returncode == 0
    try:
        assert gasang("exec", name, "--", "sh", "-c", "id -u; echo $FOO").stdout == b"1234\nbar\n"
    finally:
        gasang("stop", name)


@pytest.mark.parametrize("words", [("--kernel", "k"), ("--kernel", "k", "--initrd", "i")])
def test_it_is_for_the_default_guest(gasang, folder, words):
    done = gasang("run", "--rootfs", folder, *words, "--", "true")
    assert done.returncode == 125
    assert b"--rootfs is for the default guest" in done.stderr
    with pytest.raises(ConfigError, match="a root filesystem is for the default guest"):
        Machine.boot(rootfs=folder, kernel="k")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file or directory"), (b"junk", "it is no archive of one, or damaged")],
)
def test_what_is_no_root_is_told(gasang, tmp_path, content, message):
    path = tmp_path / "root"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RootFilesystemError, match=message):
        Machine.boot(rootfs=path)
    done = gasang("run", "--rootfs", path, "--", "true")
    assert done.returncode == 125
    assert (
        done.stderr.decode().splitlines()[-1].startswith(f"gasang: error: root filesystem {path}: {message}")
    )
    assert b"Traceback" not in done.stderr


def test_a_damaged_archive_leaves_nothing_behind(gasang, image, tmp_path):
    (tmp_path / "cut.tar").write_bytes(image.read_bytes()[:-300_000])
    before = set((cache_directory() / "rootfs").iterdir())
    done = gasang("run", "-q", "--rootfs", tmp_path / "cut.tar", "--", "true")
    assert (done.returncode, done.stdout) == (125, b"")
    assert set((cache_directory() / "rootfs").iterdir()) == before


def test_a_debian_is_made_and_runs(gasang, tmp_path):
    path = tmp_path / "debian.tar"
    done = gasang("image", "build", "debian", path, "--include", "hello", timeout=900)
    assert done.returncode == 0, done.stderr.decode()
    assert os.listdir(tmp_path) == ["debian.tar"]
    assert gasang("image", "agent", tmp_path / "agent.deb").returncode == 0
    script = """
        dpkg --audit; hello; stat -c '%a %U:%G' /etc/shadow; apt-get check -qq && echo whole
        dpkg -i /mnt/agent.deb >/dev/null && dpkg --audit && dpkg -V gasang-agent && command -v gasang-agent
    """
    words = ("-q", "-m", "1G", "--rootfs", path, "-v", f"{tmp_path}:/mnt:ro")
    ran = gasang("run", *words, "--", "sh", "-c", script)
    assert (ran.returncode, ran.stdout.decode()) == (
        0,
        "Hello, world!\n640 root:shadow\nwhole\n/usr/bin/gasang-agent\n",
    )


@pytest.mark.parametrize(
    ("package", "message"), [("no such", "is no package's name"), ("nosuchpackage", "nosuchpackage")]
)
def test_a_debian_that_cannot_be_made_is_told(gasang, tmp_path, package, message):
    done = gasang("image", "build", "-q", "debian", tmp_path / "d.tar", "--include", package)
    assert done.returncode == 125
    assert message in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1
    assert os.listdir(tmp_path) == []
