"""Container images that tests make, file by file."""

import gzip
import hashlib
import io
import json
import tarfile


def tar(*members):
    """A tar of (name, content) and `TarInfo`s."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def node(name, kind, **fields):
    """A member that has no content."""
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, 0o755
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class ImageMaker:
    """The files of an OCI layout with these layers, to be damaged before they are packed."""

    def __init__(self, *layers, architecture="amd64", compress=gzip.compress, **config):
        blobs = [compress(layer) for layer in layers]
        told = json.dumps({"os": "linux", "architecture": architecture, "config": config}).encode()
        manifest = {"config": {"digest": digest(told)}, "layers": [{"digest": digest(b)} for b in blobs]}
        manifest = json.dumps(manifest).encode()
        self.index = {"manifests": [{"digest": digest(manifest)}]}
        self.files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
        for blob in (*blobs, told, manifest):
            self.files[f"blobs/sha256/{digest(blob)[7:]}"] = blob

    def pack(self):
        return tar(*self.files.items(), ("index.json", json.dumps(self.index).encode()))

    def unpack(self, directory):
        for name, content in {**self.files, "index.json": json.dumps(self.index).encode()}.items():
            place = directory / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
