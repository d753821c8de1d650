"""How much of the processor a process leaves to the others of its machine."""

import os
from contextlib import suppress
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")


def give_way(nice: int) -> None:
    """Lowers this process's weight by ``nice``, 0 to 19. Linux shares the processor out among sessions first (sched(7),
    "The autogroup feature"), and each of our processes is a session of its own: there its niceness alone does nothing.
    Between containers neither counts, but what their runtime is told (``cpu_shares``)."""
    os.nice(nice)
    if nice:
        with suppress(OSError):  # a kernel without
            AUTOGROUP.write_text(str(nice))
