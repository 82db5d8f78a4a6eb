"""The types of `gasang.machine.asynchronous`, from those of what it is made from.

python tests/style/async_stub.py >src/gasang/machine/asynchronous.pyi
"""

import ast
import inspect
import subprocess
import sys
import textwrap

from gasang.guest.guest_process import GuestProcess
from gasang.machine import asynchronous
from gasang.machine.channel import Channel
from gasang.machine.machine import Machine

RENAMED = {"Machine": "AsyncMachine", "GuestProcess": "AsyncGuestProcess", "Channel": "AsyncChannel"}
MIRRORED = {"AsyncMachine": Machine, "AsyncChannel": Channel, "AsyncGuestProcess": GuestProcess}
HEAD = """\
# Made by tests/style/async_stub.py.
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from subprocess import CompletedProcess
from typing import Literal, Self

from gasang._engine import DescriptorTable, Segment, TraceEvent, TranslatedBlock, VmxTransition
from gasang.config import (
    Accelerator,
    Drive,
    Folder,
    Irqchip,
    MachineConfig,
    Network,
    RootFilesystem,
    Transport,
)
from gasang.guest.guest_process import GuestProcess
from gasang.machine.accelerator import Choice
from gasang.machine.channel import Channel
from gasang.machine.machine import Machine
from gasang.machine.outcome import Outcome
from gasang.profile import Profile

LEFT_OUT: frozenset[str]

class AsyncReader:
    async def read(self, size: int = ...) -> bytes: ...
    async def read1(self, size: int = ...) -> bytes: ...
    async def readline(self) -> bytes: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...

class AsyncWriter:
    async def write(self, data: bytes) -> int: ...
    async def close(self) -> None: ...
"""
OWN = {
    "AsyncMachine": """\
def __init__(self, inner: Machine) -> None: ...
async def __aenter__(self) -> Self: ...
async def __aexit__(self, *_: object) -> None: ...
@property
def machine(self) -> Machine: ...
@property
def config(self) -> MachineConfig: ...
""",
    "AsyncChannel": "def __init__(self, inner: Channel) -> None: ...\n",
    "AsyncGuestProcess": """\
stdin: AsyncWriter
stdout: AsyncReader
stderr: AsyncReader
def __init__(self, inner: GuestProcess) -> None: ...
async def __aenter__(self) -> Self: ...
async def __aexit__(self, *_: object) -> None: ...
""",
}


class _Rename(ast.NodeTransformer):
    def visit_Name(self, node):
        return ast.Name(RENAMED.get(node.id, node.id), node.ctx)


def _method(kind, name, *, is_async):
    """A method of `kind` without its body."""
    static = inspect.getattr_static(kind, name)
    function = getattr(static, "fget", None) or getattr(static, "__func__", static)
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    kept = [each for each in map(ast.unparse, node.decorator_list) if each in ("property", "classmethod")]
    node.decorator_list = [ast.Name(each) for each in kept]
    node.body = [ast.Expr(ast.Constant(...))]
    node.returns = ast.Name("Self") if "classmethod" in kept else _Rename().visit(node.returns)
    node.args.defaults = [ast.Constant(...) for _ in node.args.defaults]
    node.args.kw_defaults = [each and ast.Constant(...) for each in node.args.kw_defaults]
    text = ast.unparse(ast.fix_missing_locations(node))
    return text.replace("def ", "async def ", 1) if is_async else text


def stub():
    """The whole stub."""
    parts = [HEAD]
    for name, kind in MIRRORED.items():
        wrapper = getattr(asynchronous, name)
        methods = []
        for each in dir(kind):
            if each.startswith("_") or not hasattr(wrapper, each):
                continue
            is_async = inspect.iscoroutinefunction(getattr(wrapper, each))
            methods.append(_method(kind, each, is_async=is_async))
        body = textwrap.indent(OWN[name] + "\n".join(methods), "    ")
        parts.append(f"class {name}:\n{body}\n")
    command = [sys.executable, "-m", "ruff", "format", "-q", "--stdin-filename", "asynchronous.pyi", "-"]
    text = "\n".join(parts)
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    print(stub(), end="")
