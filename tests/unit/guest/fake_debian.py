"""Debian packages and a package client made for the tests: no network, no system packages."""

import io
import lzma
import tarfile

APPLETS = b"\0[\0[[\0cat\0sh\0stty\0\x01"
BUSYBOX = b"\x7fELF fake" + APPLETS + b"more"


def make_tar(members):
    """A tar of `members`: (name, content) or a TarInfo."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                name, content = member
                info = tarfile.TarInfo(name)
                info.size = len(content)
                info.mode = 0o755
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def make_ar(members):
    parts = [b"!<arch>\n"]
    for name, content in members:
        parts.append(b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name.encode(), 0, 0, 0, b"100644", len(content)))
        parts.append(content + b"\n" * (len(content) % 2))
    return b"".join(parts)


def make_package(members, compress=lzma.compress, suffix=".xz"):
    data = compress(make_tar(members))
    return make_ar([("debian-binary", b"2.0\n"), ("control.tar", b"odd"), (f"data.tar{suffix}", data)])


class PackageClient:
    """A directory that is the whole PATH, with `apt-get` and `apt-cache` as shell scripts in it.

    A script sees its last argument as `$name`.
    """

    def __init__(self, root):
        self.bin = root / "bin"
        self.archive = root / "archive"
        self.log = root / "log"
        for directory in (self.bin, self.archive):
            directory.mkdir()
        self.log.touch()
        for name, members in {
            "linux-image-6.1.0-9-cloud-amd64": [("./boot/vmlinuz-6.1.0-9-cloud-amd64", b"kernel")],
            "busybox-static": [("./bin/busybox", BUSYBOX)],
        }.items():
            (self.archive / f"{name}.deb").write_bytes(make_package(members))
        self.script(
            "apt-cache",
            """
            echo linux-image-cloud-amd64
            echo '  Depends: linux-image-6.1.0-9-cloud-amd64'
            """,
        )
        self.serve()

    def serve(self):
        """Downloads work, of several packages too."""
        self.script(
            "apt-get",
            f"""
            while [ $# -gt 1 ] && [ "$1" != download ]; do shift; done
            [ "$1" = download ] || exit 1
            shift
            for name; do cp "{self.archive}/$name.deb" ./"$name"_1_amd64.deb || exit; done
            """,
        )

    def add(self, name, members):
        """A package of this name."""
        (self.archive / f"{name}.deb").write_bytes(make_package(members))

    def script(self, program, body):
        path = self.bin / program
        start = f'PATH=/usr/bin:/bin\necho {program} "$@" >>"{self.log}"\nfor name in "$@"; do :; done'
        path.write_text(f"#!/bin/sh\n{start}\n{body}\n")
        path.chmod(0o755)

    @property
    def calls(self):
        return self.log.read_text().splitlines()
