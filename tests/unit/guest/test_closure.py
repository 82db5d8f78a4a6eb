"""Files of packages come with what they need to run."""

import subprocess
import tarfile

import pytest

from gasang.errors import DownloadError
from gasang.guest import fetch_files, fetch_modules
from gasang.guest.closure import kernel_release, with_directories
from gasang.guest.initramfs import Directory, File, Symlink

LIBRARIES = "usr/lib/x86_64-linux-gnu"


def link(path, target):
    member = tarfile.TarInfo(path)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def compiled(directory, name, source, *options):
    """An ELF file's content."""
    (directory / f"{name}.c").write_text(source)
    command = ("/usr/bin/gcc", "-nostdlib", "-o", name, f"{name}.c", *options)
    subprocess.run(command, cwd=directory, env={"PATH": "/usr/bin:/bin"}, check=True)
    return (directory / name).read_bytes()


@pytest.fixture
def depends(client):
    """Makes the packages that others depend on, in order."""

    def depends(*names):
        lines = "\n".join(f"echo '  Depends: {name}'" for name in names)
        client.script("apt-cache", f"echo $name\n{lines}")

    depends()
    return depends


def paths(entries):
    return [entry.path for entry in entries if not isinstance(entry, Directory)]


def test_a_file_comes_with_its_directories(client, depends):
    client.add("tool", [("./usr/share/tool/data", b"data"), ("./usr/share/tool/other", b"")])
    assert fetch_files("tool", ["usr/share/tool/data"]) == [
        Directory("usr"),
        Directory("usr/share"),
        Directory("usr/share/tool"),
        File("usr/share/tool/data", b"data", 0o755),
    ]


def test_a_link_brings_its_target_from_whatever_package(client, depends):
    depends("data")
    client.add("tool", [link("./usr/bin/tool", "../share/real")])
    client.add("data", [("./usr/share/real", b"data")])
    entries = fetch_files("tool", ["usr/bin/tool"])
    assert Symlink("usr/bin/tool", "../share/real") in entries
    assert paths(entries) == ["usr/bin/tool", "usr/share/real"]


def test_a_program_brings_the_libraries_of_its_libraries(client, depends, tmp_path):
    depends("libone1", "libtwo1", "unneeded")
    two = compiled(
        tmp_path, "libtwo.so.1", "int two(void) { return 2; }", "-shared", "-Wl,-soname,libtwo.so.1"
    )
    one = compiled(
        tmp_path, "libone.so.1", "int two(void); int one(void) { return two(); }",
        "-shared", "-Wl,-soname,libone.so.1", "libtwo.so.1",
    )  # fmt: skip
    program = compiled(
        tmp_path, "tool", "int one(void); void _start(void) { one(); }",
        "libone.so.1", "-Wl,-rpath-link,.", "-Wl,--dynamic-linker=/lib64/loader",
    )  # fmt: skip
    client.add("tool", [("./usr/bin/tool", program)])
    client.add(
        "libone1",
        [(f"./{LIBRARIES}/libone.so.1.2", one), link(f"./{LIBRARIES}/libone.so.1", "libone.so.1.2")],
    )
    client.add("unneeded", [("./usr/share/unneeded", b"")])
    client.add(
        "libtwo1", [(f"./{LIBRARIES}/libtwo.so.1", two), ("./lib64/loader", b""), ("./usr/bin/two", b"")]
    )
    assert paths(fetch_files("tool", ["usr/bin/tool"])) == [
        "lib64/loader",
        "usr/bin/tool",
        f"{LIBRARIES}/libone.so.1",
        f"{LIBRARIES}/libone.so.1.2",
        f"{LIBRARIES}/libtwo.so.1",
    ]


def test_what_no_package_has_is_named(client, depends):
    client.add("tool", [("./usr/bin/tool", b"")])
    with pytest.raises(DownloadError, match="usr/bin/other is neither in tool nor in what it depends on"):
        fetch_files("tool", ["usr/bin/tool", "usr/bin/other"])


def test_second_use_of_files_needs_no_package_client(client, depends):
    client.add("tool", [("./usr/bin/tool", b"")])
    first = fetch_files("tool", ["usr/bin/tool"])
    calls = client.calls
    assert fetch_files("tool", ["usr/bin/tool"]) == first
    assert client.calls == calls


RELEASE = "6.1.0-9-cloud-amd64"
KERNEL = (
    bytes(0x20E) + (0x1000).to_bytes(2, "little") + bytes(0xFF0) + f"{RELEASE} (Debian) #1".encode() + b"\0"
)


def module(directory, name, needs):
    told = rf"depends={needs}\0alias=pci:v00001AF4*{name}"
    source = f'__attribute__((section(".modinfo"), used)) static const char it[] = "{told}";'
    return compiled(directory, f"{name}.ko", source, "-c")


@pytest.fixture
def kernel(client, tmp_path):
    """A kernel with modules that need each other."""
    folder = f"./lib/modules/{RELEASE}/kernel"
    needs = {"far": "", "near-by": "far", "top": "near-by"}
    modules = [(f"{folder}/{name}.ko", module(tmp_path, name, need)) for name, need in needs.items()]
    client.add(f"linux-image-{RELEASE}", [(f"./boot/vmlinuz-{RELEASE}", KERNEL), *modules])


def test_modules_come_with_those_that_they_need_and_modprobes_list(kernel):
    entries = fetch_modules(["top"])
    assert [path.rpartition("/")[2] for path in paths(entries)] == [
        "far.ko",
        "near-by.ko",
        "top.ko",
        "modules.alias",
        "modules.dep",
    ]
    listing = next(entry.content for entry in entries if entry.path.endswith("modules.dep")).decode()
    assert "kernel/top.ko: kernel/near-by.ko kernel/far.ko\n" in listing
    assert "kernel/far.ko:\n" in listing
    aliases = next(entry.content for entry in entries if entry.path.endswith("modules.alias")).decode()
    assert "alias pci:v00001AF4*near-by near_by\n" in aliases
    assert [path.rpartition("/")[2] for path in paths(fetch_modules(["near_by"]))][:2] == [
        "far.ko",
        "near-by.ko",
    ]


def test_a_module_that_is_not_there_is_named(kernel):
    with pytest.raises(DownloadError, match="this kernel has no module other"):
        fetch_modules(["other"])


def test_a_file_that_is_no_kernel_has_no_release(tmp_path):
    file = tmp_path / "kernel"
    file.write_bytes(b"short")
    with pytest.raises(DownloadError, match="does not say which release"):
        kernel_release(file)


def test_directories_come_before_what_they_hold():
    entries = with_directories([File("b/c/d", b""), File("a", b""), Directory("b", 0o700)])
    assert entries == [File("a", b""), Directory("b", 0o700), Directory("b/c"), File("b/c/d", b"")]


def test_modprobe_begins_with_what_others_need(client, tmp_path):
    """It goes through the list from its end."""
    folder = f"./lib/modules/{RELEASE}/kernel"
    needs = {"ring": "", "bus": "ring", "pci": "bus,ring"}
    modules = [(f"{folder}/{name}.ko", module(tmp_path, name, need)) for name, need in needs.items()]
    client.add(f"linux-image-{RELEASE}", [(f"./boot/vmlinuz-{RELEASE}", KERNEL), *modules])
    entries = fetch_modules(["pci"])
    listing = next(entry.content for entry in entries if entry.path.endswith("modules.dep")).decode()
    assert "kernel/pci.ko: kernel/bus.ko kernel/ring.ko\n" in listing
