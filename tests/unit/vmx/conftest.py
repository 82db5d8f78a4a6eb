"""Processors in VMX operation, once for each accelerator."""

import pytest

from gasang import vmx


@pytest.fixture(params=["interp", "bt"])
def cpu(request):
    with vmx.Processor(memory="2M", accel=request.param) as cpu:
        yield cpu


@pytest.fixture
def guest(cpu):
    """A guest of the code given in hexadecimal at 0x1000; HLT exits."""

    def guest(code, mode="real"):
        cpu.memory[0x1000:] = bytes.fromhex(code)
        vmcs = cpu.vmcs(mode)
        vmcs.guest.rip = 0x1000
        vmcs.execution.hlt_exiting = True
        return vmcs

    return guest
