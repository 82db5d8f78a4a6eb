"""What `gasang run --trace` shows."""

from gasang.cli.block_trace import BlockTrace
from gasang.cli.exit_trace import ExitTrace
from gasang.cli.vmx_trace import VmxTrace

__all__ = ["AnyTrace", "BlockTrace", "ExitTrace", "VmxTrace"]

AnyTrace = BlockTrace | ExitTrace | VmxTrace
