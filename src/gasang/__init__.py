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


def __getattr__(name: str) -> Any:
    """What takes long to load is loaded when it is asked for: `gasang --version` needs no engine."""
    if name in ("AsyncMachine", "Machine"):
        from gasang import machine  # noqa: PLC0415

        return getattr(machine, name)
    if name == "MachineConfig":
        from gasang.config import MachineConfig  # noqa: PLC0415

        return MachineConfig
    if name == "__version__":
        from importlib import metadata  # noqa: PLC0415 - it takes longer to load than the rest

        return metadata.version("gasang")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
