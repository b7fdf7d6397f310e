"""How many threads a session runs on when nobody says.

Runtimes count the cores of the machine and overlook the quota of a container, under which more threads are slower.
"""

from __future__ import annotations

from functools import cache

from runoff.environment.hardware import read_cpu


@cache
def default_threads() -> int:
    """One thread for each core that this process may keep busy; two hardware threads of one core count once."""
    cpu = read_cpu()
    return max(1, min(cpu.usable_cores, cpu.physical_cores))
