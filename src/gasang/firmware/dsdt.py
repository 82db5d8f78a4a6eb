"""The differentiated definition block: which devices of this PC cannot be found by probing, in AML."""

from __future__ import annotations

from gasang.firmware import aml
from gasang.firmware.places import SLEEP_TYPE_OFF, VIRTIO_FIRST_GSI, VIRTIO_LENGTH, VIRTIO_START

_SERIAL_PORTS = ((0x3F8, 4), (0x2F8, 3), (0x3E8, 6), (0x2E8, 7))
"""COM1 to COM4: base port and interrupt, as the engine wires them."""


def definition_block(virtio_devices: int = 0) -> bytes:
    """The AML of the DSDT, without its table header, with so many virtio devices outside of PCI."""
    serial_ports = (_serial_port(index, *resources) for index, resources in enumerate(_SERIAL_PORTS, start=1))
    virtio = map(_virtio_device, range(virtio_devices))
    return b"".join(
        (
            aml.name("\\_S5", _sleep_state(SLEEP_TYPE_OFF)),
            aml.scope("\\_SB", _pci_root(), _real_time_clock(), *serial_ports, *virtio),
        )
    )


def _sleep_state(sleep_type: int) -> aml.Term:
    """SLP_TYP for PM1a and PM1b control, and two reserved elements (7.4.2)."""
    return aml.package(aml.integer(sleep_type), aml.integer(sleep_type), aml.integer(0), aml.integer(0))


def _pci_root() -> aml.Term:
    return aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A03")),
        aml.name("_UID", aml.integer(0)),
        aml.name(
            "_CRS",
            aml.resource_template(
                aml.bus_window(0, 0xFF),
                aml.port_window(0x0000, 0x0CF7),
                aml.io_ports(0x0CF8, 8),
                aml.port_window(0x0D00, 0xFFFF),
                aml.memory_window(0x000A0000, 0x000BFFFF),
                aml.memory_window(0xC0000000, 0xFEBFFFFF),
            ),
        ),
    )


def _real_time_clock() -> aml.Term:
    return aml.device(
        "RTC",
        aml.name("_HID", aml.eisa_id("PNP0B00")),
        aml.name("_CRS", aml.resource_template(aml.io_ports(0x70, 2), aml.interrupt(8))),
    )


def _serial_port(number: int, base: int, irq: int) -> aml.Term:
    return aml.device(
        f"COM{number}",
        aml.name("_HID", aml.eisa_id("PNP0501")),
        aml.name("_UID", aml.integer(number)),
        aml.name("_STA", aml.integer(0xF)),
        aml.name("_CRS", aml.resource_template(aml.io_ports(base, 8), aml.interrupt(irq))),
    )


def _virtio_device(index: int) -> aml.Term:
    place = VIRTIO_START + VIRTIO_LENGTH * index
    return aml.device(
        f"VR{index:02}",
        aml.name("_HID", aml.string("LNRO0005")),
        aml.name("_UID", aml.integer(index)),
        aml.name(
            "_CRS",
            aml.resource_template(
                aml.fixed_memory(place, VIRTIO_LENGTH), aml.level_interrupt(VIRTIO_FIRST_GSI + index)
            ),
        ),
    )
