"""What a PC's firmware would have left in memory: the memory map and the ACPI tables."""
