"""How often Python's cycle collector looks around."""

import gc

THRESHOLDS = (100_000, 50, 100)


def collect_rarely() -> None:
    """For a process that has loaded all its code: what is there stays and is not looked at again, and the collector
    runs once in a hundred thousand new objects in place of seven hundred. Batches of messages make many objects and
    hardly a cycle; at the usual pace the collector costs a worker a sixth of its CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
