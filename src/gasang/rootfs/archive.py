"""Archives that hold a root filesystem: container images, and plain tars of one.

A container image is an OCI layout (image-layout.md, manifest.md and config.md of the OCI image specification)
in a tar or a directory, or what `docker save` writes. A tar with neither's index is taken for the files
themselves, as `docker export` and mmdebstrap write it.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from gasang.errors import RootFilesystemError
from gasang.rootfs.layers import BROKEN, Store, apply_layer
from gasang.rootfs.tree import Tree

_INDEX, _MANIFEST, _LAYOUT = "index.json", "manifest.json", "oci-layout"
_MOST_JSON = 16 << 20
_MOST_INDEXES = 4
"""Indexes in each other."""

_CHUNK = 1 << 20
_ARCHITECTURE = ("linux", "amd64")


@dataclass(frozen=True)
class ImageConfig:
    """How a container image's program is to be run."""

    env: tuple[str, ...] = ()
    """NAME=VALUE each."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    cwd: str = ""
    user: str = ""


def is_layout(directory: Path) -> bool:
    """Whether a directory holds a container image, and not a root filesystem."""
    return (directory / _LAYOUT).is_file() and (directory / _INDEX).is_file()


def read_archive(path: Path, tree: Tree, store: Store) -> ImageConfig:
    """Fill a tree with what an archive, or an OCI layout in a directory, holds.

    Raises `RootFilesystemError` for what is damaged, of another kind, or for another machine.
    """
    try:
        if path.is_dir():
            return _apply_image(_Directory(path), tree, store)
        with path.open("rb") as file:
            return _apply_archive(file, tree, store)
    except RootFilesystemError as error:
        raise RootFilesystemError(f"root filesystem {path}: {error}") from error
    except BROKEN as error:
        raise RootFilesystemError(f"root filesystem {path}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"it is no archive of one, or damaged: {error}"


def _apply_archive(file: IO[bytes], tree: Tree, store: Store) -> ImageConfig:
    with _opened(file) as plain:
        blobs = _Archive(plain) if plain.seekable() else None
        if blobs is not None and blobs.is_image:
            return _apply_image(blobs, tree, store)
        plain.seek(0)
        apply_layer(tree, plain, store)
    if not tree.root.entries:
        raise RootFilesystemError("there is nothing in it")
    return ImageConfig()


class _Blobs:
    """The files of a container image by their names."""

    def open(self, name: str) -> IO[bytes]:
        raise NotImplementedError

    def json(self, name: str) -> Any:
        with self.open(name) as file:
            data = file.read(_MOST_JSON + 1)
        if len(data) > _MOST_JSON:
            raise RootFilesystemError(f"its {name} is too large")
        return json.loads(data)

    def has(self, name: str) -> bool:
        raise NotImplementedError


class _Directory(_Blobs):
    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, name: str) -> IO[bytes]:
        return (self._path / _checked(name)).open("rb")

    def has(self, name: str) -> bool:
        return (self._path / name).is_file()


class _Archive(_Blobs):
    def __init__(self, file: IO[bytes]) -> None:
        self._tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - its file is the caller's
        self.is_image = False
        self._members: dict[str, tarfile.TarInfo] = {}
        for member in self._tar:
            name = member.name.removeprefix("./")
            self._members[name] = member
            self.is_image = self.is_image or name in (_MANIFEST, _LAYOUT)
            # A tar of a root filesystem is read in one go, and not here.
            if not self.is_image and len(self._members) > 1000:
                break

    def open(self, name: str) -> IO[bytes]:
        member = self._members.get(_checked(name))
        for _ in range(len(self._members)):  # docker save makes links of layers that are the same
            if member is None or not (member.issym() or member.islnk()):
                break
            member = self._members.get(_beside(member))
        file = None if member is None else self._tar.extractfile(member)
        if file is None:
            raise RootFilesystemError(f"there is no {name} in it")
        return file

    def has(self, name: str) -> bool:
        return name in self._members


def _beside(link: tarfile.TarInfo) -> str:
    if link.islnk():
        return link.linkname.removeprefix("./")
    parts = link.name.removeprefix("./").split("/")[:-1]
    for part in link.linkname.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def _checked(name: str) -> str:
    if name.startswith("/") or ".." in name.split("/"):
        raise RootFilesystemError(f"{name!r} is not a file of the image")
    return name


def _apply_image(blobs: _Blobs, tree: Tree, store: Store) -> ImageConfig:
    if blobs.has(_INDEX):
        return _apply_oci(blobs, tree, store)
    if not blobs.has(_MANIFEST):
        raise RootFilesystemError(f"there is no {_INDEX} in it")
    with _telling():
        images = blobs.json(_MANIFEST)
        image = _only(images, lambda each: ", ".join(each.get("RepoTags") or ["without a name"]))
        config = blobs.json(image["Config"])
        _check_machine(config)
        for layer in image["Layers"]:
            with blobs.open(layer) as file:
                _apply_blob(tree, file, None, store)
        return _config_of(config)


def _apply_oci(blobs: _Blobs, tree: Tree, store: Store) -> ImageConfig:
    with _telling():
        index = blobs.json(_INDEX)
        for _ in range(_MOST_INDEXES):
            chosen = _only(_for_this_machine(index["manifests"]), _name_of)
            manifest = _verified_json(blobs, chosen["digest"])
            if "manifests" not in manifest:
                break
            index = manifest
        config = _verified_json(blobs, manifest["config"]["digest"])
        _check_machine(config)
        for layer in manifest["layers"]:
            with blobs.open(_blob(layer["digest"])) as file:
                _apply_blob(tree, file, layer["digest"], store)
        return _config_of(config)


@contextmanager
def _telling() -> Iterator[None]:
    """What is missing in somebody's JSON is an error of theirs."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise RootFilesystemError(f"its description is none: {error!r}") from error


def _for_this_machine(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those for x86-64, where they say so; attestations are of no machine."""

    def machine(entry: dict[str, Any]) -> tuple[str, str]:
        platform = entry.get("platform") or {}
        return platform.get("os", _ARCHITECTURE[0]), platform.get("architecture", _ARCHITECTURE[1])

    found = [entry for entry in manifests if machine(entry) == _ARCHITECTURE]
    if not found and manifests:
        others = ", ".join(sorted({"/".join(machine(entry)) for entry in manifests}))
        raise RootFilesystemError(f"it is for {others}, and the guest is {'/'.join(_ARCHITECTURE)}")
    return found


def _name_of(entry: dict[str, Any]) -> str:
    names = entry.get("annotations") or {}
    return str(names.get("org.opencontainers.image.ref.name", entry.get("digest")))


def _only(images: list[Any], name: Any) -> Any:
    if len(images) != 1:
        names = "; ".join(str(name(each)) for each in images)
        raise RootFilesystemError(f"there are {len(images)} images in it, and there is to be one: {names}")
    return images[0]


def _check_machine(config: Mapping[str, Any]) -> None:
    machine = (config.get("os") or _ARCHITECTURE[0], config.get("architecture") or _ARCHITECTURE[1])
    if machine != _ARCHITECTURE:
        raise RootFilesystemError(
            f"it is for {'/'.join(machine)}, and the guest is {'/'.join(_ARCHITECTURE)}"
        )


def _config_of(config: Mapping[str, Any]) -> ImageConfig:
    told = config.get("config") or {}
    return ImageConfig(
        env=_words(told.get("Env")),
        entrypoint=_words(told.get("Entrypoint")),
        command=_words(told.get("Cmd")),
        cwd=str(told.get("WorkingDir") or ""),
        user=str(told.get("User") or ""),
    )


def _words(value: Any) -> tuple[str, ...]:
    return tuple(str(each) for each in value or ())


def _blob(digest: str) -> str:
    algorithm, _, number = digest.partition(":")
    if algorithm not in ("sha256", "sha512") or not number.isalnum():
        raise RootFilesystemError(f"{digest!r} is no digest that is known here")
    return f"blobs/{algorithm}/{number}"


def _verified_json(blobs: _Blobs, digest: str) -> Any:
    with blobs.open(_blob(digest)) as file:
        data = file.read(_MOST_JSON)
    if hashlib.new(digest.partition(":")[0], data).hexdigest() != digest.partition(":")[2]:
        raise RootFilesystemError(f"{digest} is not what it was")
    return json.loads(data)


def _apply_blob(tree: Tree, file: IO[bytes], digest: str | None, store: Store) -> None:
    """Apply a layer, of which the digest, if there is one, is verified."""
    summed = _Summed(file, digest)
    with _opened_stream(summed) as plain:
        apply_layer(tree, plain, store)
        while plain.read(_CHUNK):
            pass  # the rest of its last block
    summed.verify()


class _Summed:
    """A stream of which a digest is taken as it is read."""

    def __init__(self, source: IO[bytes], digest: str | None) -> None:
        self._source = source
        self._digest = digest
        self._sum = None if digest is None else hashlib.new(digest.partition(":")[0])
        self._ahead = b""

    def peek(self, size: int) -> bytes:
        self._ahead = self._source.read(size)
        return self._ahead

    def read(self, size: int = -1) -> bytes:
        ahead, self._ahead = self._ahead, b""
        if 0 <= size < len(ahead):
            ahead, self._ahead = ahead[:size], ahead[size:]
        data = ahead + self._source.read(size - len(ahead) if size >= 0 else -1)
        if self._sum is not None:
            self._sum.update(data)
        return data

    def verify(self) -> None:
        """Read the rest. Raises `RootFilesystemError` if it is not what it is to be."""
        while self.read(_CHUNK):
            pass
        if self._sum is not None and self._digest is not None:
            algorithm, _, wanted = self._digest.partition(":")
            if self._sum.hexdigest() != wanted:
                raise RootFilesystemError(f"its layer {algorithm}:{wanted[:12]}... is damaged")


@contextmanager
def _opened(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """A file, which may be compressed, as what can be read again from its start."""
    start = file.read(6)
    file.seek(0)
    if start[:2] == b"\x1f\x8b":
        with gzip.open(file) as plain:
            yield cast(IO[bytes], plain)
    elif start == b"\xfd7zXZ\0":
        with lzma.open(file) as plain:
            yield cast(IO[bytes], plain)
    elif start[:3] == b"BZh":
        with bz2.open(file) as plain:
            yield cast(IO[bytes], plain)
    elif start[:4] == b"\x28\xb5\x2f\xfd":
        raise RootFilesystemError("it is compressed by zstd as a whole: decompress it first")
    else:
        yield file


@contextmanager
def _opened_stream(summed: _Summed) -> Iterator[IO[bytes]]:
    """A layer, decompressed as it is read."""
    start = summed.peek(4)
    source = cast(IO[bytes], summed)
    if start[:2] == b"\x1f\x8b":
        with gzip.open(source) as plain:
            yield cast(IO[bytes], plain)
    elif start == b"\x28\xb5\x2f\xfd":
        yield cast(IO[bytes], zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True))
    else:
        yield source
