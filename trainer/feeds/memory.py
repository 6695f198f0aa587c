"""How much memory is free."""

from __future__ import annotations

_WHERE_UNKNOWN = 2**32


def free_bytes() -> int:
    """Returns the bytes of memory that programs can still get, 4 GiB where nothing tells."""
    try:
        with open("/proc/meminfo") as lines:
            found = next(line for line in lines if line.startswith("MemAvailable:"))
            return int(found.split()[1]) * 1024
    except (OSError, StopIteration):  # no Linux
        return _WHERE_UNKNOWN
