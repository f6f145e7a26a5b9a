"""A host's counters, read each minute: load, memory, disk, and the month's traffic."""
