"""Where the PC's hardware is, as ACPI tells the guest and the machine has it."""

from __future__ import annotations

from gasang.units import GIB

PM1_EVENT_PORT = 0x600
PM1_CONTROL_PORT = 0x604
PM_TIMER_PORT = 0x608
RESET_PORT = 0xCF9
RESET_VALUE = 0x06
SCI_IRQ = 9
CENTURY_REGISTER = 0x32

SLEEP_TYPE_OFF = 5
"""SLP_TYP of the soft-off state S5; the guest writes it to PM1a control to power the machine off."""

LOCAL_APIC = 0xFEE00000
IO_APIC = 0xFEC00000
HPET = 0xFED00000

VIRTIO_START, VIRTIO_LENGTH, VIRTIO_FIRST_GSI = 0xFED20000, 0x1000, 16
"""Virtio devices outside of PCI: a page and an input of the I/O APIC each."""

LOW_RAM_LIMIT = 3 * GIB
"""RAM below 4 GiB ends here at the latest, so that PCI devices and interrupt controllers have room."""
