"""Seeds for cloud-init, and the agent's package, read back by other programs."""

import base64
import gzip
import io
import json
import subprocess

import pytest
from pycdlib import PyCdlib

from gasang.cli import main
from gasang.guest.agent_package import agent_package, agent_program
from gasang.guest.seed import seed_files, seed_image


def read(image):
    """The files of a disk by the names that Linux shows, and by those that Joliet has."""
    disk, found = PyCdlib(), ({}, {})
    disk.open_fp(io.BytesIO(image))
    assert disk.pvd.volume_identifier.strip() == b"cidata"
    for kind, files in zip(("rr_path", "joliet_path"), found, strict=True):
        for child in disk.list_children(**{kind: "/"}):
            if child.is_file():
                name = (
                    child.rock_ridge.name()
                    if kind == "rr_path"
                    else child.file_identifier().decode("utf-16-be")
                )
                content = io.BytesIO()
                disk.get_file_from_iso_fp(
                    content, **{kind: f"/{name.decode() if kind == 'rr_path' else name}"}
                )
                files[name.decode() if kind == "rr_path" else name] = content.getvalue()
    return found


def config_of(data):
    first, _, rest = data.partition(b"\n")
    assert first == b"#cloud-config"
    return json.loads(rest)


def test_a_seed_is_read_as_it_was_written():
    files = seed_files(
        hostname="box", ssh_keys=["ssh-ed25519 AAAA me"], password="secret", network=b"version: 2\n"
    )
    assert read(seed_image(files)) == (files, files)
    assert json.loads(files["meta-data"])["local-hostname"] == "box"
    assert config_of(files["user-data"]) == {
        "ssh_authorized_keys": ["ssh-ed25519 AAAA me"],
        "password": "secret",
        "chpasswd": {"expire": False},
        "ssh_pwauth": True,
    }


def test_each_seed_is_another_instance():
    assert seed_files()["meta-data"] != seed_files()["meta-data"]


def test_the_agent_comes_along():
    told = config_of(seed_files(agent=True)["vendor-data"])
    program = told["write_files"][0]
    assert (program["path"], program["permissions"]) == ("/usr/bin/gasang-agent", "0755")
    assert gzip.decompress(base64.b64decode(program["content"])) == agent_program()
    assert ["systemctl", "enable", "--now", "gasang-agent.service"] in told["runcmd"]


def test_dpkg_reads_the_agents_package(tmp_path):
    (tmp_path / "a.deb").write_bytes(agent_package())
    listing = subprocess.run(
        ["dpkg-deb", "-c", tmp_path / "a.deb"], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in listing.stdout.splitlines()]
    assert {(row[0], row[1], row[-1]) for row in rows if row[0].startswith("-")} == {
        ("-rwxr-xr-x", "0/0", "./usr/bin/gasang-agent"),
        ("-rw-r--r--", "0/0", "./usr/lib/systemd/system/gasang-agent.service"),
        ("-rw-r--r--", "0/0", "./usr/lib/modules-load.d/gasang-agent.conf"),
    }
    subprocess.run(["dpkg-deb", "-x", tmp_path / "a.deb", tmp_path / "x"], check=True)
    assert (tmp_path / "x/usr/bin/gasang-agent").read_bytes() == agent_program()


def test_the_command_line_writes_both(tmp_path, capfd):
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAA me\n")
    words = ["--hostname", "box", "--ssh-key", str(tmp_path / "key.pub"), "--agent"]
    assert main(["image", "seed", str(tmp_path / "seed.iso"), *words]) == 0
    files, _ = read((tmp_path / "seed.iso").read_bytes())
    assert sorted(files) == ["meta-data", "user-data", "vendor-data"]
    assert main(["image", "agent", str(tmp_path / "a.deb")]) == 0
    assert (tmp_path / "a.deb").read_bytes() == agent_package()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--hostname", "a b"), "--hostname a b: that is no host name"),
        (("--ssh-key", "none"), "--ssh-key none: No such file or directory"),
        (("--ssh-key", "private"), "that is the private key; give the public one, private.pub"),
        (("--ssh-key", "empty"), "--ssh-key empty: that is no public key"),
        (("--user-data", "empty", "--password", "x"), "--user-data says it all"),
        (("--user-data", "none"), "--user-data none: No such file or directory"),
    ],
)
def test_what_cannot_be_in_a_seed_is_told(tmp_path, monkeypatch, capfd, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "private").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    (tmp_path / "empty").touch()
    assert main(["image", "seed", "seed.iso", *words]) == 125
    assert message in capfd.readouterr().err
    assert not (tmp_path / "seed.iso").exists()
