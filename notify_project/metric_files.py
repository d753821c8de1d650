"""The files in ``PROMETHEUS_MULTIPROC_DIR``, one for each process and kind of metric: read together, tidied up after
the dead. The processes must share one PID namespace: give each container a directory of its own.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client import mmap_dict, multiprocess
from prometheus_client.core import Metric

# These two have no annotations.
_Collector: Any = multiprocess.MultiProcessCollector
_File: Any = mmap_dict.MmapedDict


def read_counts(directory: Path) -> list[Metric]:
    """The counters and histograms of all processes, living and dead, added up."""
    with _sole_reader(directory):
        fold_dead_processes(directory)
        return list(_Collector(None, path=str(directory)).collect())


@contextmanager
def _sole_reader(directory: Path) -> Iterator[None]:
    # Nobody may read between the writing of the folded file and the deletion of what went into it.
    with (directory / "scrape.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fold_dead_processes(directory: Path) -> None:
    """Add the files of processes that are gone to one file and delete them, so that ``directory`` does not grow with
    every restart and no count is lost."""
    for kind in ("counter", "histogram"):
        dead = [path for path in directory.glob(f"{kind}_*.db") if not _is_in_use(path)]
        if dead:
            _fold(directory / f"{kind}_folded.db", dead)


def _is_in_use(path: Path) -> bool:
    owner = path.stem.rpartition("_")[2]
    if not owner.isdigit():
        return True  # the folded file itself
    try:
        os.kill(int(owner), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _fold(folded: Path, dead: list[Path]) -> None:
    sources = [str(path) for path in (*dead, folded) if path.exists()]
    successor = folded.with_suffix(".next")
    successor.unlink(missing_ok=True)
    target = _File(str(successor))
    for metric in _Collector.merge(sources, accumulate=False):
        for sample in metric.samples:
            names, values = list(sample.labels), list(sample.labels.values())
            key = mmap_dict.mmap_key(metric.name, sample.name, names, values, metric.documentation)
            target.write_value(key, sample.value, 0.0)
    target.close()
    successor.replace(folded)
    for path in dead:
        path.unlink(missing_ok=True)
