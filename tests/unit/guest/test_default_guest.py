"""Bringing the default guest, against a package client of the tests' own."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from fake_debian import make_package

from gasang.errors import CacheError, DownloadError
from gasang.guest.default import default_guest, default_initrd, fetch_kernel
from gasang.guest.initramfs import File
from gasang.guest.packages import dependencies, fetch_package, fetch_with_dependencies


def leftovers(cache):
    """What an unfinished download would have left."""
    return [path.name for path in cache.iterdir() if path.name.startswith("partial-")]


def test_default_guest_is_fetched_and_cached(client, cache):
    guest = default_guest()
    assert guest.kernel.read_bytes() == b"kernel"
    assert guest.initrd.startswith(b"070701")
    assert "console=ttyS0" in guest.append
    assert leftovers(cache) == []


def test_second_use_needs_no_package_client(client):
    first = default_guest()
    (client.bin / "apt-get").unlink()
    (client.bin / "apt-cache").unlink()
    assert default_guest() == first


def test_progress_names_what_is_fetched(client):
    told = []
    default_guest(told.append)
    assert any("linux-image-6.1.0-9-cloud-amd64" in line for line in told)
    assert any("busybox-static" in line for line in told)
    told.clear()
    default_guest(told.append)
    assert told == []


def test_damaged_file_is_fetched_again(client):
    kernel = fetch_kernel()
    kernel.write_bytes(b"kerneL")
    assert fetch_kernel().read_bytes() == b"kernel"


def test_missing_sums_are_no_entry(client):
    kernel = fetch_kernel()
    (kernel.parent / "SHA256SUMS").unlink()
    assert fetch_kernel().read_bytes() == b"kernel"


def test_unauthenticated_packages_are_never_asked_for(client):
    default_guest()
    assert all("AllowUnauthenticated=false" in call for call in client.calls)


def test_missing_index_is_fetched_into_the_cache(client, cache):
    client.script(
        "apt-get",
        f"""
        case "$*" in
        *update*) touch "{cache}/fresh" ;;
        *) [ -e "{cache}/fresh" ] || {{ echo 'E: Unable to locate package' >&2; exit 100; }}
           cp "{client.archive}/$name.deb" . ;;
        esac
        """,
    )
    assert fetch_package("busybox-static").name == "busybox-static.deb"
    update = next(call for call in client.calls if "update" in call)
    assert f"Dir::State={cache}/apt/state" in update


def test_index_in_the_cache_is_used_again(client, cache):
    lists = cache / "apt/state/lists"
    client.script(
        "apt-get",
        f"""
        case "$*" in
        *update*) touch "{lists}/deb.example_InRelease" ;;
        *Dir::State=*) cp "{client.archive}/$name.deb" . ;;
        *) echo 'E: Unable to locate package' >&2; exit 100 ;;
        esac
        """,
    )
    fetch_package("busybox-static")
    fetch_package("linux-image-6.1.0-9-cloud-amd64")
    assert len([call for call in client.calls if " update " in call]) == 1


def test_one_broken_source_does_not_matter(client, cache):
    client.script(
        "apt-get",
        f"""
        case "$*" in
        *update*) touch "{cache}/fresh"; echo 'E: a source of no concern' >&2; exit 100 ;;
        *) [ -e "{cache}/fresh" ] || exit 100; cp "{client.archive}/$name.deb" . ;;
        esac
        """,
    )
    assert fetch_package("busybox-static").exists()


def test_failed_download_is_one_line_and_leaves_nothing(client, cache):
    client.script("apt-get", "echo 'W: odd' >&2; echo 'E: Could not resolve deb.example' >&2; exit 100")
    with pytest.raises(DownloadError) as caught:
        default_guest()
    assert "Could not resolve deb.example" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert leftovers(cache) == []
    client.serve()
    assert default_guest().kernel.read_bytes() == b"kernel"


def test_truncated_package_is_refused_and_not_kept(client, cache):
    whole = make_package([("./boot/vmlinuz-6.1.0-9-cloud-amd64", os.urandom(5000))])
    package = client.archive / "linux-image-6.1.0-9-cloud-amd64.deb"
    package.write_bytes(whole[:2000])
    with pytest.raises(DownloadError, match="not a whole Debian package"):
        fetch_kernel()
    assert leftovers(cache) == []
    package.write_bytes(whole)
    assert len(fetch_kernel().read_bytes()) == 5000


def test_no_package_client_says_what_to_do(client):
    (client.bin / "apt-cache").unlink()
    (client.bin / "apt-get").unlink()
    with pytest.raises(DownloadError, match="--kernel"):
        default_guest()


def test_cache_that_is_a_file_is_an_error(client, cache):
    cache.parent.mkdir()
    cache.write_text("in the way")
    with pytest.raises(CacheError, match="XDG_CACHE_HOME"):
        default_guest()


def test_unwritable_cache_is_an_error(client, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/no/cache")  # where not even root can make a directory
    with pytest.raises(CacheError, match="/proc/no/cache/gasang cannot be used"):
        default_guest()


def test_concurrent_first_uses_fetch_once(client):
    client.script("apt-get", f'sleep 0.2; cp "{client.archive}/$name.deb" .')
    threads = [threading.Thread(target=default_initrd) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([call for call in client.calls if "download" in call]) == 1


def test_killed_download_leaves_no_entry_and_the_next_run_starts_clean(client, cache):
    # The client tells that it has begun by making a file, and then waits to be killed.
    client.script("apt-get", f'echo half >part.deb; touch "{cache}/begun"; exec sleep 60')
    code = "from gasang.guest.default import default_initrd; default_initrd()"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    while not (cache / "begun").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert leftovers(cache)
    client.serve()
    default_initrd()
    assert leftovers(cache) == []


def test_dependencies_are_names(client):
    client.script(
        "apt-cache",
        """
        echo python3
        echo ' |PreDepends: python3-minimal'
        echo '  PreDepends: python3-minimal'
        echo '  Depends: libc6:any'
        echo '  Depends: <virtual>'
        """,
    )
    assert dependencies("python3") == ["python3-minimal", "libc6"]


def test_package_comes_with_what_it_depends_on(client):
    client.script("apt-cache", "echo tool; echo '  Depends: busybox-static'; echo '  Depends: libc6'")
    (client.archive / "tool.deb").write_bytes(make_package([("./tool", b"t")]))
    files = fetch_with_dependencies("tool", leave_out={"libc6"})
    assert [file.name for file in files] == ["tool_1_amd64.deb", "busybox-static_1_amd64.deb"]


def test_more_entries_go_into_the_initrd(client):
    assert b"hello from more" in default_initrd([File("hello", b"hello from more")])
