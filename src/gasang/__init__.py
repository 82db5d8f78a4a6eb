"""gasang: unmodified x86-64 guests by binary translation, in an ordinary process.

```python
from gasang import Machine

with Machine.boot(memory="512M") as vm:
    print(vm.run("uname -a", timeout=10).stdout)
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gasang.errors import (
    CacheError,
    ConfigError,
    DownloadError,
    GasangError,
    GuestAgentError,
    GuestCommandFailed,
    GuestFileError,
    GuestImageError,
    GuestTimeout,
    KernelError,
    MachineDied,
    RootFilesystemError,
    SnapshotError,
)
from gasang.lazy import attributes

if TYPE_CHECKING:
    from gasang.config import MachineConfig
    from gasang.machine import AsyncMachine, Machine

__all__ = [
    "AsyncMachine",
    "CacheError",
    "ConfigError",
    "DownloadError",
    "GasangError",
    "GuestAgentError",
    "GuestCommandFailed",
    "GuestFileError",
    "GuestImageError",
    "GuestTimeout",
    "KernelError",
    "Machine",
    "MachineConfig",
    "MachineDied",
    "RootFilesystemError",
    "SnapshotError",
]


_find = attributes(__name__, {"AsyncMachine": "machine", "Machine": "machine", "MachineConfig": "config"})


def __getattr__(name: str) -> Any:
    """What takes long to load is loaded when it is asked for: `gasang --version` needs no engine."""
    if name == "__version__":
        from importlib import metadata  # noqa: PLC0415 - it takes longer to load than the rest

        return metadata.version("gasang")
    return _find(name)
