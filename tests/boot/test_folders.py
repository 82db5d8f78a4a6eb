"""Folders of the host in a guest."""

import hashlib
import os

import pytest

from gasang import ConfigError, Machine, SnapshotError
from gasang.config import Folder
from gasang.guest.cache import cache_directory

PATIENCE = 120


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    place = tmp_path_factory.mktemp("shared")
    (place / "rw").mkdir()
    (place / "ro").mkdir()
    (place / "ro" / "file").write_text("to be read")
    (place / "secret").write_text("outside")
    (place / "rw" / "out").symlink_to(place / "secret")
    return place


@pytest.fixture(scope="module", params=["virtiofs", "9p"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def guest(shared, kind):
    folders = [f"{shared}/rw:/mnt/a b:{kind}", Folder(shared / "ro", "/ro", readonly=True, kind=kind)]
    with Machine.boot(accel="bt", vsock=True, folders=folders) as machine:
        yield machine


def sh(guest, script):
    return guest.run(f"cd '/mnt/a b' && {script}", timeout=PATIENCE, check=True).stdout.decode()


def test_files_are_those_of_the_host(guest, shared):
    (shared / "rw" / "from-host").write_text("one")
    assert (
        sh(guest, "cat from-host; echo two >from-guest; mkdir d; mv from-guest d/x; ln -s x d/link") == "one"
    )
    assert (shared / "rw/d/x").read_text() == "two\n"
    assert os.readlink(shared / "rw/d/link") == "x"
    assert sh(guest, "stat -c '%u %a' d/x") == "0 644\n"
    assert sh(guest, "cat d/link; rm -r d from-host; ls") == "two\nout\n"
    assert os.listdir(shared / "rw") == ["out"]


def test_large_files_pass_whole(guest, shared):
    content = os.urandom(5 << 20) + b"end"
    (shared / "rw/large").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    assert sh(guest, "sha256sum <large").split()[0] == digest
    assert (
        sh(guest, "cp large copy; sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum <copy").split()[0]
        == digest
    )
    assert (shared / "rw/copy").read_bytes() == content
    sh(guest, "rm large copy")


def test_a_program_runs_from_a_folder_and_maps_its_files(guest):
    assert sh(guest, "cp /usr/bin/busybox . && ./busybox echo runs && rm busybox") == "runs\n"


def test_an_open_file_without_a_name_is_still_one(guest):
    """Longer than what a guest keeps of a file's attributes."""
    script = "exec 3<>t; rm t; echo one >&3; sleep 2; echo two >&3; stat -L -c %s /proc/self/fd/3; ls t"
    done = guest.run(f"cd '/mnt/a b' && {script}", timeout=PATIENCE)
    assert (done.stdout, b"No such file" in done.stderr) == (b"8\n", True)


def test_a_file_is_written_in_the_middle_renamed_and_linked(guest, shared):
    sh(guest, "echo old >mapped && dd if=/dev/zero of=mapped bs=1 count=1 conv=notrunc 2>/dev/null; sync")
    assert (shared / "rw/mapped").read_bytes() == b"\0ld\n"
    sh(guest, "mv mapped other && ln other second && rm other && test $(stat -c %h second) = 1 && rm second")


def test_many_small_files(guest, shared):
    script = "mkdir m; for i in $(seq 500); do echo $i >m/$i; done; ls m | wc -l; cat m/* | wc -l"
    assert sh(guest, script).split() == ["500", "500"]
    assert len(os.listdir(shared / "rw/m")) == 500
    sh(guest, "rm -r m")
    assert not (shared / "rw/m").exists()


def test_a_folder_to_be_read_is_not_written(guest, shared):
    assert sh(guest, "cat /ro/file") == "to be read"
    tried = guest.run(
        "mount -o remount,rw /ro; echo x >/ro/file; rm /ro/file; echo y >/ro/new", timeout=PATIENCE
    )
    assert tried.stderr.count(b"Read-only file system") >= 3
    assert (shared / "ro/file").read_text() == "to be read"
    assert os.listdir(shared / "ro") == ["file"]


def test_links_of_the_host_lead_nowhere(guest):
    assert guest.run("cat '/mnt/a b/out'", timeout=PATIENCE).returncode == 1


def test_a_mounted_folder_is_not_saved_and_an_unmounted_one_is(guest, kind):
    with pytest.raises(SnapshotError, match="unmount"):
        guest.fork()
    guest.run("umount '/mnt/a b' /ro", timeout=PATIENCE, check=True)
    (clone,) = guest.fork()
    with clone:
        assert sh(clone, "ls") == "out\n", "a clone mounts its folders"
    again = f"mount -t {kind} gasang0 '/mnt/a b' && mount -t {kind} -o ro gasang1 /ro"
    guest.run(again, timeout=PATIENCE, check=True)


def test_a_folder_stays_of_its_kind(shared, tmp_path):
    folder = f"{shared}/ro:/ro:ro"
    with Machine.boot(accel="bt", folders=[Folder(shared / "ro", "")]) as machine:
        machine.snapshot(tmp_path / "snapshot")
    with pytest.raises(SnapshotError, match="by virtiofs there, not by 9p"):
        Machine.restore(tmp_path / "snapshot", folders=[Folder.parse(folder + ",9p")])


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        ("{}", "is not HOST:GUEST"),
        ("{}/missing:/x", "No such file"),
        ("{}:relative", "not an absolute path"),
        ("{}:/x:rx", "is not HOST:GUEST"),
        ("{}:/x:ro,9p,virtiofs", "is not HOST:GUEST"),
        ("{}:/x:", "is not HOST:GUEST"),
        ("{}:/x/../..", "not an absolute path"),
    ],
)
def test_bad_folders_are_errors_of_one_line(gasang, tmp_path, volume, said):
    done = gasang("run", "-q", "-v", volume.format(tmp_path), "--", "true")
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (125, b"", 1)
    assert said in done.stderr.decode()


@pytest.mark.parametrize("option", ["", ":9p"])
def test_the_command_line_shares_a_folder(gasang, tmp_path, option):
    for number in (1, 2):  # booted, and from the snapshot
        words = ("-v", f"{tmp_path}:/there{option}", "--", "sh", "-c", f"echo {number} >>/there/log")
        done = gasang("run", "-q", *words)
        assert done.returncode == 0
    assert (tmp_path / "log").read_text() == "1\n2\n"


def test_a_guest_that_boots_for_its_command_or_its_shell_has_the_folder_too(gasang, tmp_path):
    (tmp_path / "file").write_text("shared\n")
    command = gasang("run", "-q", "--cold", "-v", f"{tmp_path}:/there", "--", "cat", "/there/file")
    assert (command.returncode, command.stdout) == (0, b"shared\n")
    typed = b"until cat /there/file; do sleep 1; done; exit 3\n"
    shell = gasang("run", "-q", "-v", f"{tmp_path}:/there", input=typed)
    assert (shell.returncode, b"\nshared\r\n" in shell.stdout) == (3, True)


def test_a_snapshot_that_cannot_be_left_behind_costs_no_folder(gasang, tmp_path):
    (tmp_path / "cache" / "gasang").mkdir(parents=True)
    (tmp_path / "cache" / "gasang" / "guest").symlink_to(cache_directory() / "guest")
    (tmp_path / "cache" / "gasang" / "warm").write_text("in the way")
    (tmp_path / "file").write_text("shared\n")
    words = ("-v", f"{tmp_path}:/there", "--", "cat", "/there/file")
    done = gasang("run", "-q", *words, env={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert (done.returncode, done.stdout) == (0, b"shared\n")
    assert b"no snapshot to begin with" in done.stderr


def test_deterministic_machines_share_nothing(tmp_path):
    with pytest.raises(ConfigError, match="shares no folders"):
        Machine.boot(deterministic=True, folders=[f"{tmp_path}:/x"])
