"""What a process of a test holds of the host's memory, as the system says."""

from __future__ import annotations

import resource


def resident_bytes():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
