"""Debian's Xen: its generic kernel as PV Dom0, Xen's own tools, and domains of the default guest's kernel."""

import hashlib
import re

import hypervisors
import pytest

from gasang import Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

SUM = hashlib.sha256("".join(f"{number}\n" for number in range(1, 100001)).encode()).hexdigest()


@pytest.fixture(scope="module", params=[1, 2], ids=["one processor", "two processors"])
def xen(request, tmp_path_factory):
    """A machine with Xen, and in Dom0 what `xl` needs; how many processors it has."""
    host = hypervisors.xen(tmp_path_factory.mktemp("xen"))
    options = {"kernel": host.hypervisor, "modules": host.modules, "cpus": request.param}
    append = "com1=115200,8n1 console=com1 noreboot dom0_mem=512M,max:512M"
    with Machine.boot(accel="bt", memory="1G", append=append, **options) as machine:
        machine.run("/guest/start", timeout=200, check=True)
        yield machine, request.param


def output(machine, command):
    return machine.run(command, timeout=120, check=True).stdout.decode(errors="replace").replace("\r", "")


def test_xen_finds_vmx_and_ept(xen):
    machine, cpus = xen
    said = machine.console.log.decode(errors="replace").replace("\r", "")
    assert "VMX enabled" in said
    assert "HVM: Hardware Assisted Paging (HAP) detected" in said
    assert f"Brought up {cpus} CPU" in said
    assert "Dom0 has maximum" in said


def test_xl_tells_of_the_host(xen):
    machine, cpus = xen
    info = dict(re.findall(r"^(\w+) +: (.*)$", output(machine, "xl info"), re.MULTILINE))
    assert info["nr_cpus"] == str(cpus)
    assert {"pv", "hvm", "hap"} <= set(info["virt_caps"].split())
    assert info["xen_version"].startswith("4.17.")
    assert domains(machine) == {"Domain-0"}


def domains(machine):
    return {line.split()[0] for line in output(machine, "xl list").splitlines()[1:]}


@pytest.mark.parametrize("kind", ["pvh", "pv"])
def test_a_domain_comes_works_and_goes(xen, kind):
    machine, cpus = xen
    output(machine, f"xl create /guest/{kind}.cfg vcpus={cpus}")
    log = f"/var/log/xen/console/guest-{kind}.log"
    said = output(
        machine, f"for second in $(seq 60); do grep -q '  -' {log} && break; sleep 1; done; cat {log}"
    )
    assert re.search(rf"^up: Linux 6\.[\d.-]+-cloud-amd64, {cpus} processors$", said, re.MULTILINE), said
    assert f"\n{kind.upper()}\n" in said
    assert f"{SUM}  -\n" in said
    for word in ("BUG:", "WARNING:", "Oops", "Call Trace"):
        assert word not in said
    assert domains(machine) == {"Domain-0", kind}
    # Its console is a terminal of Dom0's: what is typed there is done.
    terminal = f"$(xenstore-read /local/domain/$(xl domid {kind})/console/tty)"
    output(machine, f"echo 'echo answer $((6 * 7))' > {terminal}")
    output(machine, f"for second in $(seq 30); do grep -q 'answer 42' {log} && exit; sleep 1; done; exit 1")
    output(machine, f"xl destroy {kind}")
    assert domains(machine) == {"Domain-0"}


def test_dom0_has_no_complaints(xen):
    machine, _ = xen
    words = "BUG:|Oops|detected stall|lockup|Call Trace"
    assert machine.run(f"dmesg | grep -iE '{words}'", timeout=60).stdout == b""
    assert b"Xen BUG" not in machine.console.log
