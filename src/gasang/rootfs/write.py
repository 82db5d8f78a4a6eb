"""Container images with one layer, written as an OCI layout in a tar (image-layout.md)."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from gasang.rootfs.archive import ImageConfig

_MEDIA = "application/vnd.oci.image"
_GZIP = 16 + zlib.MAX_WBITS
_CHUNK = 1 << 20


def write_image(
    target: IO[bytes], layer: Iterable[bytes], config: ImageConfig, *, name: str, directory: Path
) -> None:
    """Write an image whose one layer is a tar that comes in pieces; `name` is what tools call it, `directory`
    has room for another copy meanwhile.

    Raises `OSError`.
    """
    with tempfile.TemporaryFile(dir=directory) as spool:
        content, size, plain = _compress(layer, spool)
        told = _json(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Env": config.env, "Cmd": config.command, "WorkingDir": config.cwd or "/"},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{plain}"]},
            }
        )
        layers = [_descriptor(f"{_MEDIA}.layer.v1.tar+gzip", content, size)]
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": f"{_MEDIA}.manifest.v1+json",
                "config": _descriptor(f"{_MEDIA}.config.v1+json", _sum(told), len(told)),
                "layers": layers,
            }
        )
        entry = _descriptor(f"{_MEDIA}.manifest.v1+json", _sum(manifest), len(manifest))
        entry["annotations"] = {"org.opencontainers.image.ref.name": name}
        index = _json({"schemaVersion": 2, "manifests": [entry]})
        spool.seek(0)
        with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
            _put(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
            _put(archive, "index.json", index)
            for blob in (manifest, told):
                _put(archive, f"blobs/sha256/{_sum(blob)}", blob)
            member = tarfile.TarInfo(f"blobs/sha256/{content}")
            member.size = size
            archive.addfile(member, spool)


def _compress(layer: Iterable[bytes], target: IO[bytes]) -> tuple[str, int, str]:
    """Write the layer compressed: the digest and size of that, and the digest of the layer itself."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    content, plain, size = hashlib.sha256(), hashlib.sha256(), 0

    def put(data: bytes) -> None:
        nonlocal size
        content.update(data)
        target.write(data)
        size += len(data)

    for piece in layer:
        plain.update(piece)
        put(compressor.compress(piece))
    put(compressor.flush())
    return content.hexdigest(), size, plain.hexdigest()


def _put(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _descriptor(media: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media, "digest": f"sha256:{digest}", "size": size}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _sum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
