"""Seeds for cloud-init: small disks from which a stock cloud image learns who it is.

The data source is NoCloud (cloud-init's documentation, "NoCloud"): an ISO 9660 file system called "cidata"
with the files `meta-data`, `user-data` and, if there are any, `network-config` and `vendor-data`.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import secrets
from collections.abc import Mapping, Sequence

from gasang.guest.agent_package import AGENT, MODULES, SERVICE, agent_program

_LABEL = "cidata"
_CLOUD_CONFIG = "#cloud-config\n"


def seed_files(
    *,
    hostname: str | None = None,
    ssh_keys: Sequence[str] = (),
    password: str | None = None,
    agent: bool = False,
    user_data: bytes | None = None,
    network: bytes | None = None,
) -> dict[str, bytes]:
    """The files of a seed, by name. `user_data` is the user's own, in the place of keys and password; with
    `agent` cloud-init installs the guest's agent. Raises `GuestImageError` if there is no agent."""
    meta = {"instance-id": f"gasang-{secrets.token_hex(8)}"}
    if hostname:
        meta["local-hostname"] = hostname
    files = {
        "meta-data": json.dumps(meta).encode() + b"\n",
        "user-data": _users(ssh_keys, password) if user_data is None else user_data,
    }
    if network is not None:
        files["network-config"] = network
    if agent:
        files["vendor-data"] = _with_agent()
    return files


def seed_image(files: Mapping[str, bytes]) -> bytes:
    """The disk with these files; JSON in them is YAML as well."""
    from pycdlib import PyCdlib  # noqa: PLC0415 - slow to load, and rarely needed

    image, disk = PyCdlib(), io.BytesIO()
    image.new(interchange_level=3, vol_ident=_LABEL, joliet=3, rock_ridge="1.09")
    for number, (name, content) in enumerate(files.items()):
        image.add_fp(
            io.BytesIO(content), len(content), f"/F{number}.;1", rr_name=name, joliet_path=f"/{name}"
        )
    image.write_fp(disk)
    image.close()
    return disk.getvalue()


def _users(ssh_keys: Sequence[str], password: str | None) -> bytes:
    """The image's own user, who may be root, by these keys or this password."""
    told: dict[str, object] = {}
    if ssh_keys:
        told["ssh_authorized_keys"] = list(ssh_keys)
    if password is not None:
        told |= {"password": password, "chpasswd": {"expire": False}, "ssh_pwauth": True}
    return _config(told)


def _with_agent() -> bytes:
    program = base64.b64encode(gzip.compress(agent_program(), mtime=0)).decode()
    files = [
        {"path": f"/usr/bin/{AGENT}", "content": program, "encoding": "gz+b64", "permissions": "0755"},
        {"path": f"/etc/systemd/system/{AGENT}.service", "content": SERVICE},
        {"path": f"/etc/modules-load.d/{AGENT}.conf", "content": MODULES},
    ]
    commands = [["modprobe", MODULES.strip()], ["systemctl", "enable", "--now", f"{AGENT}.service"]]
    return _config({"write_files": files, "runcmd": commands})


def _config(told: Mapping[str, object]) -> bytes:
    return f"{_CLOUD_CONFIG}{json.dumps(told, indent=1)}\n".encode()
