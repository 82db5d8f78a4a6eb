"""`gasang run`: boot a guest, and connect its console or one command in it with our streams."""

from __future__ import annotations

import argparse
import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gasang import guest
from gasang.cli import command, network, profiling
from gasang.cli.arguments import UsageError
from gasang.cli.report import say
from gasang.cli.session import Session
from gasang.cli.warm import warm_machine
from gasang.config import ACCELERATORS, IRQCHIPS, TRANSPORTS, Drive, Folder, MachineConfig
from gasang.machine import Machine, TimedOut
from gasang.machine.accelerator import Choice
from gasang.machine.guest_parts import bios_of
from gasang.units import parse_size

if TYPE_CHECKING:
    from gasang.cli.traces import AnyTrace

_EPILOG = """\
With no kernel named, the default guest boots: Debian's cloud kernel and busybox, fetched once by apt-get.
With `-- CMD`, the command runs in it (also with a kernel of yours); its streams and exit code are ours. The
first command leaves a snapshot of the guest behind in which others begin.
Otherwise the guest's console is here: on a terminal in raw mode, where Ctrl-A x stops the machine and
Ctrl-A h shows help; in a pipe, as stdin and stdout. gasang itself speaks on stderr only.

examples:
  gasang run
  gasang run -m 1G -- sh -c 'free -m; exit 7'
  echo 'print me' | gasang run -- cat
  gasang run --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0 root=/dev/ram0'
  gasang run --bios seabios --drive disk.qcow2
  gasang run --kernel hypervisor.elf --module 'kernel.bin args' --module disk.img --timeout 60
  gasang run --trace blocks --trace-file blocks.txt -- true
  gasang run --profile -- sh -c 'seq 10000 | sort | sha256sum'

exit codes: the command's, or the console shell's, own; 124 timeout; 125 an error of gasang itself; 126 and
127 the command cannot be run or was not found; 128 + n signal n; 255 panic or triple fault;
(v << 1) | 1 after the guest wrote v to isa-debug-exit
"""


_TRACES = {"blocks": "BlockTrace", "exits": "ExitTrace", "vmx": "VmxTrace"}
"""What `gasang.cli.traces` calls them, which is loaded when there is one."""

_KEYS = " (Ctrl-A x stops the machine, Ctrl-A h shows help)"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `gasang run`."""
    parser.description = "Boot a guest."
    parser.usage = "gasang run [OPTION...] [-- CMD [ARG...]]"
    parser.epilog = _EPILOG
    boot = parser.add_argument_group("what to boot")
    boot.add_argument("--kernel", metavar="FILE", help="bzImage, vmlinux, or a PVH or multiboot ELF")
    boot.add_argument("--initrd", metavar="FILE", help="initial RAM disk, or 'FILE ARGS,...' for multiboot")
    boot.add_argument(
        "--module",
        metavar="'FILE ARGS'",
        action="append",
        default=[],
        help="multiboot module; may be repeated",
    )
    boot.add_argument(
        "--append", metavar="WORDS", default="", help="the kernel's command line, or more of it"
    )
    boot.add_argument(
        "--bios", metavar="FILE|seabios", help="a BIOS, which boots from the first drive; seabios is Debian's"
    )
    boot.add_argument(
        "--rootfs",
        metavar="DIR|TAR",
        help="the guest's root: a folder, a container image's archive, or a tar; what it writes is not kept",
    )
    command.add_options(parser.add_argument_group("the command"))
    machine = parser.add_argument_group("the machine")
    machine.add_argument("-m", "--memory", metavar="SIZE", default="512M", help="RAM (default: %(default)s)")
    machine.add_argument("-c", "--cpus", metavar="N", type=int, default=1, help="processors (default: 1)")
    machine.add_argument(
        "--cpu", metavar="MODEL[,+F,-F]", default="max", help="processor model and features (default: max)"
    )
    machine.add_argument(
        "--accel",
        choices=ACCELERATORS,
        default="auto",
        help="kvm is the processor itself, bt translates the guest's code, interp interprets it "
        "(default: auto, the fastest that works)",
    )
    machine.add_argument(
        "--drive",
        metavar="FILE",
        action="append",
        default=[],
        help="a disk of the guest, or file=FILE,format=raw,readonly=on; may be repeated",
    )
    machine.add_argument(
        "-v",
        "--volume",
        metavar="HOST:GUEST[:ro]",
        action="append",
        default=[],
        help="a folder of this host that the guest has too; :9p or :ro,9p for kernels without virtio-fs; "
        "may be repeated",
    )
    network.add_options(machine)
    machine.add_argument(
        "--balloon", action="store_true", help="a balloon: memory that the guest has free is the host's"
    )
    machine.add_argument("--rng", action="store_true", help="a device of random numbers")
    machine.add_argument(
        "--transport",
        choices=TRANSPORTS,
        default="pci",
        help="how virtio devices are found: on PCI, or by MMIO as microVMs have them (default: pci)",
    )
    machine.add_argument(
        "--irqchip",
        choices=IRQCHIPS,
        default="own",
        help="on KVM, interrupt controllers and PIT are gasang's own, or the kernel's (default: own)",
    )
    time = parser.add_argument_group("time")
    time.add_argument(
        "--deterministic",
        action="store_true",
        help="time counts instructions: two runs are the same run",
    )
    time.add_argument(
        "--seed", metavar="N", type=int, default=0, help="chooses a deterministic guest's random numbers"
    )
    time.add_argument("--date", metavar="DATE", help="what the real-time clock shows at first, as ISO 8601")
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, help="stop the machine then, with code 124"
    )
    parser.add_argument(
        "-d", "--detach", action="store_true", help="leave it in the background, for gasang exec NAME"
    )
    parser.add_argument(
        "--cold", action="store_true", help="boot the guest, and do not begin in a snapshot of it that is up"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    parser.add_argument(
        "--state-hash", action="store_true", help="say a hash of the machine's last state at the end"
    )
    parser.add_argument(
        "--trace",
        choices=list(_TRACES),
        help="blocks: guest code beside the host code that it became; exits: what leaves the guest, as perf "
        "shows it of KVM; vmx: VM entries and VM exits of a guest that is a hypervisor",
    )
    parser.add_argument("--trace-file", metavar="FILE", help="where the trace goes (default: stderr)")
    profiling.add_options(parser)


def main(options: argparse.Namespace) -> int:
    """Run a guest; return the exit code."""
    _check(options)
    config = _configuration(options)
    if options.detach:
        return _in_background(options, config)
    if config.rootfs and options.command is None:
        # As docker does: what the image is for, or else a shell.
        options.command = config.rootfs.command or ("sh",)
        options.tty = os.isatty(0) and os.isatty(1)
    on_terminal = options.command is None and os.isatty(0) and os.isatty(1)
    warm = _may_be_warm(options, config)
    if not warm:
        config = _with_default_guest(config, options, on_terminal=on_terminal)
    with ExitStack() as stack:
        trace = stack.enter_context(_trace(options))
        report = stack.enter_context(profiling.report_of(options))
        progress = None if options.quiet else say
        machine = warm_machine(config, progress) if warm else Machine(config)
        stack.enter_context(network.published(machine, options))
        stack.enter_context(profiling.reported(machine, report))
        stack.enter_context(profiling.published(machine, options))
        if not options.quiet:
            say(_accelerator_line(machine.accelerator) + (_KEYS if on_terminal else ""))
        if trace:
            stack.enter_context(trace.following(machine, config.cpus))
        stack.enter_context(_limited(machine, options.timeout))
        session = Session(machine)
        has_shell = options.kernel is None and options.bios is None
        if options.state_hash:
            stack.callback(_say_state_hash, machine)
        if options.command is not None:
            # What is typed is never the same twice.
            return session.run_command(
                options.command,
                typing=not options.deterministic,
                env=command.environment_of(options),
                cwd=options.workdir,
                user=options.user,
                tty=options.tty,
            )
        if on_terminal:
            return session.on_terminal(has_shell=has_shell)
        return session.in_pipe(has_shell=has_shell)


def _check(options: argparse.Namespace) -> None:
    """What no single option shows. Raises `UsageError`."""
    if options.bios and (options.kernel or options.initrd or options.append or options.rootfs):
        raise UsageError(
            "a BIOS boots what is on a drive: leave out --kernel, --initrd, --append and --rootfs"
        )
    if options.rootfs and (options.kernel or options.initrd):
        raise UsageError("--rootfs is for the default guest: leave out --kernel and --initrd")
    if options.command is not None and not options.command:
        raise UsageError("no command behind --: write one, as in gasang run -- uname -a")
    if options.command is not None and (options.initrd or options.module):
        raise UsageError("a command needs gasang's own initial RAM disk: leave out --initrd and --module")
    if options.kernel is None and options.initrd:
        raise UsageError("--initrd needs a --kernel to go with it")
    for name, value in {
        "-t": options.tty,
        "-e": options.env,
        "-w": options.workdir,
        "-u": options.user,
    }.items():
        if value and options.command is None and not options.rootfs:
            raise UsageError(f"{name} is for a command: write one behind --")
    for name, value in {"-t": options.tty, "-u": options.user}.items():
        if value and (options.kernel or options.deterministic):
            raise UsageError(f"{name} needs the default guest, and time as it is")
    command.check_terminal(options)
    command.environment_of(options)
    if options.timeout is not None and not options.timeout > 0:
        raise UsageError(f"--timeout {options.timeout:g}: give a number of seconds above 0")
    if options.trace_file and not options.trace:
        raise UsageError(f"--trace-file needs --trace with one of {', '.join(_TRACES)}")
    if options.trace == "blocks" and options.accel == "interp":
        raise UsageError("--trace blocks needs the translator: leave out --accel interp")


def _may_be_warm(options: argparse.Namespace, config: MachineConfig) -> bool:
    """Whether the command may begin in a snapshot of the default guest: nobody can tell, but by the time."""
    boot = (
        options.cold
        or options.kernel
        or options.bios
        or options.append
        or options.date
        or options.deterministic
    )
    watched = options.trace or options.profile or options.perf_map or options.count_blocks or options.symbols
    return options.command is not None and not (
        boot
        or watched
        or options.state_hash
        or config.drives
        or (config.rootfs and config.rootfs.kind != "erofs")
    )


def _in_background(options: argparse.Namespace, config: MachineConfig) -> int:
    """Leave the machine to a process of its own. Raises `UsageError`, `GasangError`."""
    others = {"a command": options.command, "--kernel": options.kernel, "--trace": options.trace,
              "--profile": options.profile, "--perf-map": options.perf_map, "--timeout": options.timeout,
              "--state-hash": options.state_hash, "--deterministic": options.deterministic}  # fmt: skip
    for name, value in others.items():
        if value:
            raise UsageError(f"-d is for the default guest alone: leave out {name}")
    from gasang.cli import holder  # noqa: PLC0415 - slow to load, and not always needed

    name = options.name or "debian"
    config = replace(config, vsock=True)
    config = _with_default_guest(config, options, on_terminal=False)
    holder.start(lambda: network.published(Machine(config), options), name)
    holder.say_name(name)
    return 0


def _configuration(options: argparse.Namespace) -> MachineConfig:
    """The machine asked for. Raises `ConfigError`, `GuestImageError`."""
    progress = None if options.quiet else say
    return MachineConfig(
        kernel=Path(options.kernel) if options.kernel is not None else None,
        bios=None if options.bios is None else bios_of(options.bios, progress),
        initrd=options.initrd,
        modules=tuple(options.module),
        append=options.append,
        memory=parse_size(options.memory),
        cpus=options.cpus,
        drives=tuple(Drive.parse(each) for each in options.drive),
        rng=options.rng,
        balloon=options.balloon,
        vsock=_needs_vsock(options),
        folders=tuple(Folder.parse(each) for each in options.volume),
        rootfs=None if options.rootfs is None else guest.root_filesystem(options.rootfs, progress),
        net=network.asked_for(options),
        cpu=options.cpu,
        accel=options.accel,
        irqchip=options.irqchip,
        transport=options.transport,
        trace_blocks=options.trace == "blocks",
        trace_exits=options.trace == "exits",
        trace_vmx=options.trace == "vmx",
        profile=options.profile is not None,
        count_blocks=options.count_blocks,
        perf_map=options.perf_map,
        symbols=tuple(options.symbols),
        date=_date(options.date),
        deterministic=options.deterministic,
        seed=options.seed,
    )


def _needs_vsock(options: argparse.Namespace) -> bool:
    """Whether the default guest's agent behind it is needed: for folders, users, and ports."""
    asked = options.volume or options.rootfs or options.user or options.tty or network.by_agent(options)
    return (bool(asked) and options.kernel is None) or (bool(options.bios) and options.command is not None)


def _date(text: str | None) -> datetime | None:
    """A date as users write it; without a time zone it is UTC's. Raises `UsageError`."""
    if text is None:
        return None
    try:
        date = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--date {text}: write it as in 2026-01-31T12:00:00") from error
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _say_state_hash(machine: Machine) -> None:
    machine.stop()
    say(f"state hash {machine.state_hash()}")


def _with_default_guest(
    config: MachineConfig, options: argparse.Namespace, *, on_terminal: bool
) -> MachineConfig:
    """Fill in the default guest's parts, where they are used. Raises `GuestImageError`."""
    progress, default = None if options.quiet else say, None
    if config.bios is not None:
        return config
    if config.kernel is None:
        default = guest.guest_for(config, progress)
        config = replace(config, kernel=default.kernel, initrd=default.initrd)
    elif options.command is not None:
        config = replace(config, initrd=guest.default_initrd((), progress))
    else:
        return config
    words = [guest.APPEND if default is None else default.append]
    if options.command is not None:
        words.append("GASANG_SHELL=no")
    elif on_terminal:
        words += _terminal_words()
    return replace(config, append=" ".join([*words, config.append]).strip())


def _terminal_words() -> list[str]:
    """What tells the guest's first process of our terminal."""
    import shutil  # noqa: PLC0415 - slow to load, and not always needed

    size = shutil.get_terminal_size()
    name = os.environ.get("TERM", "")
    words = [f"GASANG_SIZE={size.lines}x{size.columns}"]
    return [*words, f"TERM={name}"] if re.fullmatch(r"[\w.+-]+", name, re.ASCII) else words


def _accelerator_line(choice: Choice) -> str:
    kind = {"kvm": "/dev/kvm", "bt": "binary translation", "interp": "the interpreter"}[choice.name]
    return f"accelerator {choice.name} ({kind}): {choice.why}"


@contextmanager
def _trace(options: argparse.Namespace) -> Iterator[AnyTrace | None]:
    """Where the trace is shown, if there is one. Raises `UsageError` for a file that cannot be
    made."""
    if options.trace is None:
        yield None
        return
    from gasang.cli import traces  # noqa: PLC0415 - slow to load, and not always needed

    trace = getattr(traces, _TRACES[options.trace])
    if options.trace_file is None:
        yield trace(2)
        return
    try:
        descriptor = os.open(options.trace_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    except OSError as error:
        raise UsageError(f"--trace-file {options.trace_file}: {error.strerror}") from error
    try:
        yield trace(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _limited(machine: Machine, seconds: float | None) -> Iterator[None]:
    """End the machine after so many seconds; None leaves it alone."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, machine.stop, [TimedOut(seconds)])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
