"""What a machine is asked to be: one frozen value, validated when it is made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self, cast, get_args

from gasang.errors import ConfigError
from gasang.units import MIB, format_size

Accelerator = Literal["auto", "kvm", "bt", "interp"]
ACCELERATORS: tuple[str, ...] = get_args(Accelerator)
Irqchip = Literal["own", "kernel"]
IRQCHIPS: tuple[str, ...] = get_args(Irqchip)
DriveFormat = Literal["auto", "raw", "qcow2"]
Transport = Literal["pci", "mmio"]
TRANSPORTS: tuple[str, ...] = get_args(Transport)
MOST_MMIO = 8
FolderKind = Literal["virtiofs", "9p"]
RootKind = Literal["erofs", "virtiofs"]
MOST_DRIVES = 24
MOST_FOLDERS = 4
MOST_PORTS = 15

MINIMUM_MEMORY = 32 * MIB
MAXIMUM_CPUS = 64
_PAGE = 4096
_SEEDS = 1 << 64
_FIRST_DATE, _LAST_DATE = datetime(1970, 1, 1, tzinfo=UTC), datetime(2099, 12, 31, tzinfo=UTC)
_DETERMINISTIC_DATE = datetime(2026, 1, 1, tzinfo=UTC)
_PORT_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
_CPU_NAME = re.compile(r"[\w.-]+(,[+-][\w.-]+)*", re.ASCII)


@dataclass(frozen=True)
class Drive:
    """A disk of the guest and the file that it is in."""

    path: Path
    """A file, or a block device of the host."""

    format: DriveFormat = "auto"
    """"raw", the disk's bytes, or "qcow2"; "auto" looks, and takes "raw" for what it does not know."""

    readonly: bool = False
    """The guest may not write it; other machines may read it at the same time."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """A drive as on the command line: FILE, or file=FILE[,format=FORMAT][,readonly=on|off].

        A comma in a file's name is written twice. Raises `ConfigError`.
        """
        words = [word.replace("\0", ",") for word in text.replace(",,", "\0").split(",")]
        if "=" not in words[0]:
            words[0] = f"file={words[0]}"
        options = dict(word.partition("=")[::2] for word in words)
        unknown = sorted(options.keys() - {"file", "format", "readonly"})
        if unknown or not options.get("file"):
            what = f"no option {unknown[0]!r}" if unknown else "no file"
            raise ConfigError(f"--drive {text}: {what}: write file=FILE,format=raw,readonly=on")
        switch = options.get("readonly", "off")
        if switch not in ("on", "off"):
            raise ConfigError(f"--drive {text}: readonly is on or off, not {switch!r}")
        return cls(Path(options["file"]), _drive_format(options.get("format", "auto")), switch == "on")


def _drive_format(name: str) -> DriveFormat:
    for known in get_args(DriveFormat):
        if name == known:
            return cast(DriveFormat, known)
    raise ConfigError(f"drive format {name!r} is not one of {', '.join(get_args(DriveFormat))}")


NetworkKind = Literal["user", "passt"]
_PORTS = 1 << 16


@dataclass(frozen=True)
class Network:
    """A network device and what it is connected with."""

    kind: NetworkKind = "user"
    """"user": a network of the guest's own, in this process, with connections of the host's behind it.
    "passt": by that program, if it is installed, without rules."""

    allow: tuple[str, ...] = ()
    """Whom the guest may reach, by rules: "any", "public" (the Internet), "host" (the host's loopback, at
    10.0.2.2), "none", "ADDRESS/BITS", "NAME", "*.NAME", each with ":PORT" or without. None: "public"."""

    resolver: str | None = None
    """The name server behind the guest's, ADDRESS:PORT; None is the host's."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """A network as on the command line: user[,allow=RULE]...[,dns=ADDRESS:PORT]. Raises `ConfigError`."""
        kind, *options = text.split(",")
        if kind not in get_args(NetworkKind):
            raise ConfigError(f"network {kind!r} is not one of {', '.join(get_args(NetworkKind))}")
        pairs = [option.partition("=") for option in options]
        for name, _, value in pairs:
            if name not in ("allow", "dns") or not value:
                raise ConfigError(
                    f"--net {text}: no option {name!r}: write {kind},allow=RULE,dns=ADDRESS:PORT"
                )
        allow = tuple(value for name, _, value in pairs if name == "allow")
        resolver = next((value for name, _, value in pairs if name == "dns"), None)
        return cls(cast(NetworkKind, kind), allow, resolver)


@dataclass(frozen=True)
class Forward:
    """Connections to an address of the host's that are the guest's."""

    guest_port: int
    """The port that the guest listens at."""

    host_port: int = 0
    """The host's; 0 takes one that is free."""

    address: str = "127.0.0.1"
    """The host's IPv4 address."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """One as on the command line: [ADDRESS:]HOST:GUEST, or GUEST. Raises `ConfigError`."""
        *before, guest = text.split(":")
        host = before.pop() if before else "0"
        address = before.pop() if before else cls.address
        if before or not (guest.isdecimal() and host.isdecimal() and address):
            raise ConfigError(f"port {text!r} is not HOST:GUEST or ADDRESS:HOST:GUEST")
        return cls(int(guest), int(host), address)

    def __post_init__(self) -> None:
        if not (0 < self.guest_port < _PORTS and 0 <= self.host_port < _PORTS):
            raise ConfigError(f"port {self.host_port}:{self.guest_port}: a port is a number from 1 to 65535")


@dataclass(frozen=True)
class Folder:
    """A folder of the host that the guest has too."""

    host: Path
    """Where it is here."""

    guest: str
    """Where the default guest mounts it, as an absolute path; "" leaves that to others: its tag is "gasangN",
    the first gasang0."""

    readonly: bool = False
    """The guest may not write there."""

    kind: FolderKind = "virtiofs"
    """By which of the kernel's file systems the guest has it."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """One as on the command line: HOST:GUEST[:OPTION[,OPTION]], ro or rw, virtiofs or 9p.

        Raises `ConfigError`.
        """
        host, _, rest = text.partition(":")
        guest, colon, options = rest.partition(":")
        words = options.split(",") if colon else []
        kinds = [kind for kind in get_args(FolderKind) if kind in words]
        access = [word for word in ("ro", "rw") if word in words]
        if (
            not host
            or not guest
            or len(kinds) > 1
            or len(access) > 1
            or sorted(words) != sorted(kinds + access)
        ):
            raise ConfigError(f"folder {text!r} is not HOST:GUEST, HOST:GUEST:ro or HOST:GUEST:9p")
        return cls(Path(host), guest, "ro" in words, *kinds)

    def __post_init__(self) -> None:
        is_path = not self.guest or self.guest.startswith("/")
        if not is_path or "\0" in self.guest or ".." in self.guest.split("/"):
            raise ConfigError(f"folder {self.host}: {self.guest!r} is not an absolute path in the guest")


@dataclass(frozen=True, kw_only=True)
class RootFilesystem:
    """What the default guest has as its root, and how commands run there. What the guest writes goes to its
    memory. `gasang.guest.root_filesystem` makes one."""

    kind: RootKind
    """"erofs": an image, which is the guest's last drive; "virtiofs": a directory of the host's."""

    path: Path
    """Of that image or directory."""

    env: tuple[str, ...] = ()
    """NAME=VALUE each: the environment of commands that say nothing else."""

    cwd: str = ""
    """Their directory."""

    user: str = ""
    """Who runs them: "NAME", "NUMBER", or either with ":GROUP"."""

    command: tuple[str, ...] = ()
    """What runs if no command is given."""


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """A machine's parts. Raises `ConfigError` when made with a value that no machine can have.

    Files are not opened here: a missing kernel is found by the loaders, when the machine is built.
    """

    kernel: Path | None = None
    """The kernel's file; None boots the default guest's."""

    bios: Path | None = None
    """A BIOS's file, such as SeaBIOS's: it boots from the drives, in place of a kernel that is given."""

    initrd: Path | str | bytes | None = None
    """The initial RAM disk: a file, or its content as bytes. For a multiboot kernel a string is QEMU's list
    of modules, "FILE ARGS,FILE ARGS", where a doubled comma stands for one."""

    modules: tuple[str, ...] = ()
    """Multiboot modules, each "FILE ARGS"."""

    append: str = ""
    """The kernel's command line."""

    memory: int = 512 * MIB
    """Guest RAM in bytes, a multiple of 4096, at least 32 MiB."""

    cpus: int = 1
    """Virtual processors."""

    cpu: str = "max"
    """Processor model: MODEL[,+feature,-feature]... The engine knows the names."""

    drives: tuple[Drive, ...] = ()
    """Disks, in the order of /dev/vda, /dev/vdb and so on."""

    rng: bool = False
    """A virtio device of random numbers: the host's, or those that `seed` chooses."""

    balloon: bool = False
    """A virtio balloon: memory that the guest has free is the host's; `Machine.set_balloon` asks for more."""

    vsock: bool = False
    """A virtio socket device; the default guest's agent listens behind it, for many commands at a time,
    terminals and files. Not for a deterministic machine."""

    folders: tuple[Folder, ...] = ()
    """Folders of the host that the guest has too. The default guest mounts them if it has vsock."""

    rootfs: RootFilesystem | None = None
    """The default guest's root filesystem; None is its initial RAM disk. Needs vsock."""

    net: Network | None = None
    """A network device; None is no network. Not for a deterministic machine."""

    ports: tuple[str, ...] = ()
    """Named ports of a virtio console, at most 15, beside the console itself, "hvc0": streams of bytes for
    programs, in Linux /dev/virtio-ports/NAME; `Machine.port` is the other end. Not for a deterministic
    machine."""

    transport: Transport = "pci"
    """How the guest finds its virtio devices: "pci", functions of bus 0 with MSI-X, or "mmio", pages of
    registers that ACPI names (LNRO0005), at most 8."""

    accel: Accelerator = "auto"
    """What executes the guest: "kvm" is the processor itself by /dev/kvm, "bt" translates, "interp"
    interprets; "auto" takes KVM if a guest that tries it out comes to its end there, else "bt"."""

    irqchip: Irqchip = "own"
    """Where interrupt controllers and PIT are on KVM: in gasang's engine ("own") or in the kernel."""

    switchable: bool = False
    """The guest may go from "bt" to "kvm" and back (`Machine.switch_accelerator`): it is told of a processor
    that both can give, without VT-x. One that begins on KVM always may."""

    trace_blocks: bool = False
    """Keep each translated block, guest code beside host code, for `Machine.translated_blocks`."""

    trace_exits: bool = False
    """Note what leaves the guest, for `Machine.traced_exits`."""

    trace_vmx: bool = False
    """Note VM entries and VM exits of a guest that is a hypervisor, for `Machine.vmx_transitions`."""

    profile: bool = False
    """Measure from the start where time goes, for `Machine.profile`."""

    count_blocks: bool = False
    """Translated blocks count how often they are executed, for `Machine.profile`: exact, and slower."""

    perf_map: bool = False
    """Name translated code for the host's perf, by guest symbol, in /tmp/perf-PID.map."""

    symbols: tuple[str, ...] = ()
    """Programs of the guest, as ELF files "FILE" or "FILE@ADDRESS" (where a position-independent one lies in
    memory), whose symbols name addresses. A Linux kernel brings its own."""

    date: datetime | None = None
    """What the real-time clock shows at first, with its time zone; None is the host's date, or of a
    deterministic machine the first of January 2026."""

    deterministic: bool = False
    """Time is a function of the instructions executed, and random numbers one of `seed`: two runs are the
    same run. Serial ports 1 to 3 are the agent's from the start, and the machine stands still while the agent
    waits for a command or for input. For one processor."""

    seed: int = 0
    """Chooses a deterministic machine's random numbers; 64 bits."""

    def __post_init__(self) -> None:
        self._check_memory()
        self._check_processors()
        self._check_time()
        self._check_boot()

    @property
    def first_date(self) -> datetime:
        """What the real-time clock shows at first."""
        if self.date is not None:
            return self.date
        return _DETERMINISTIC_DATE if self.deterministic else datetime.now(UTC)

    @property
    def all_drives(self) -> tuple[Drive, ...]:
        """The drives, and behind them the root's."""
        if self.rootfs is None or self.rootfs.kind != "erofs":
            return self.drives
        return (*self.drives, Drive(self.rootfs.path, "raw", readonly=True))

    @property
    def virtio_devices(self) -> int:
        """How many there are."""
        others = (self.rng, self.balloon, self.vsock, self.net is not None, bool(self.ports))
        return len(self.all_drives) + len(self.all_folders) + sum(others)

    @property
    def all_folders(self) -> tuple[Folder, ...]:
        """The folders, and behind them the root's."""
        if self.rootfs is None or self.rootfs.kind != "virtiofs":
            return self.folders
        return (*self.folders, Folder(self.rootfs.path, "", readonly=True))

    def _check_memory(self) -> None:
        if self.memory < MINIMUM_MEMORY:
            raise ConfigError(
                f"memory {format_size(self.memory)} is too little: "
                f"give the guest at least {format_size(MINIMUM_MEMORY)}"
            )
        if self.memory % _PAGE:
            raise ConfigError(f"memory of {self.memory} bytes is not a multiple of {_PAGE}")

    def _check_processors(self) -> None:
        if not 1 <= self.cpus <= MAXIMUM_CPUS:
            raise ConfigError(f"cpus is {self.cpus}: choose 1 to {MAXIMUM_CPUS}")
        if not _CPU_NAME.fullmatch(self.cpu):
            raise ConfigError(f"cpu {self.cpu!r} is not MODEL[,+feature,-feature]..., such as max,-avx512f")
        if self.accel not in ACCELERATORS:
            raise ConfigError(f"accel {self.accel!r} is not one of {', '.join(ACCELERATORS)}")
        if len(self.all_drives) > MOST_DRIVES:
            raise ConfigError(f"{len(self.all_drives)} drives: there is room for {MOST_DRIVES}")
        if len(self.all_folders) > MOST_FOLDERS:
            raise ConfigError(f"{len(self.all_folders)} folders: there is room for {MOST_FOLDERS}")
        if len(set(self.ports)) < len(self.ports) or len(self.ports) > MOST_PORTS or "hvc0" in self.ports:
            raise ConfigError(
                f"ports {', '.join(self.ports)}: at most {MOST_PORTS}, each with a name of its own"
            )
        for name in self.ports:
            if not _PORT_NAME.fullmatch(name):
                raise ConfigError(f"port {name!r}: a name has letters, digits, '.', '_' and '-', at most 64")
        if self.transport not in TRANSPORTS:
            raise ConfigError(f"transport {self.transport!r} is not one of {', '.join(TRANSPORTS)}")
        if self.transport == "mmio" and self.virtio_devices > MOST_MMIO:
            raise ConfigError(f"{self.virtio_devices} virtio devices by MMIO: there is room for {MOST_MMIO}")
        if self.irqchip not in IRQCHIPS:
            raise ConfigError(f"irqchip {self.irqchip!r} is not one of {', '.join(IRQCHIPS)}")

    def _check_time(self) -> None:
        if self.deterministic and self.cpus != 1:
            raise ConfigError(
                f"a deterministic machine has one processor, not {self.cpus}: "
                "in which order several execute is up to the host"
            )
        if self.deterministic and self.folders:
            raise ConfigError("a deterministic machine shares no folders: what is in them is up to the host")
        if self.deterministic and self.ports:
            raise ConfigError("a deterministic machine has no ports: when the host sends is up to the host")
        if self.deterministic and self.vsock:
            raise ConfigError("a deterministic machine has no vsock: when the host sends is up to the host")
        if self.deterministic and self.net is not None:
            raise ConfigError("a deterministic machine has no network: when the host sends is up to the host")
        if self.seed and not self.deterministic:
            raise ConfigError("a seed is for a deterministic machine (--deterministic)")
        if not 0 <= self.seed < _SEEDS:
            raise ConfigError(f"seed {self.seed} is not from 0 to {_SEEDS - 1}")
        if self.date is not None and self.date.tzinfo is None:
            raise ConfigError(f"date {self.date} has no time zone")
        if self.date is not None and not _FIRST_DATE <= self.date <= _LAST_DATE:
            raise ConfigError(f"date {self.date} is not from 1970 to 2099")

    def _check_boot(self) -> None:
        if self.bios is not None and (self.kernel is not None or self.initrd is not None or self.append):
            raise ConfigError("a BIOS boots what is on a drive: leave out kernel, initrd and command line")
        if self.modules and self.kernel is None:
            raise ConfigError("modules are for a multiboot kernel: name one with kernel (--kernel)")
        if self.modules and self.initrd is not None:
            raise ConfigError("give either modules (--module) or an initrd (--initrd), not both")
        if self.rootfs is not None and not self.vsock:
            raise ConfigError("a root filesystem needs vsock, behind which its commands are run")
        if "\0" in self.append:
            raise ConfigError("the kernel command line (append) contains a NUL character")
