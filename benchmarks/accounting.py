"""CPU seconds and peak memory of groups of processes, their children included, the ended ones too."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

Groups = Mapping[str, Iterable[int]]


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes and everything below them. A process that ended counts with its
    parent, which is where the kernel keeps it: a database's sessions come and go."""
    return sum(_own_and_reaped(process) for pid in pids for process in _tree(pid))


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _own_and_reaped(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def _box_seconds() -> tuple[float, float]:
    times = psutil.cpu_times()
    stolen = float(getattr(times, "steal", 0.0))
    idle = float(times.idle + getattr(times, "iowait", 0.0))
    return float(sum(times[:8])) - idle - stolen, stolen


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds by group, of the whole box, and those the hypervisor kept for others."""

    groups: dict[str, float]
    box: float
    stolen: float

    def per_item_us(self, count: int) -> dict[str, float]:
        """µs of CPU by group for each of ``count`` items, ``all`` of the groups together, and ``others``: what else
        ran on the box, the kernel's own threads included."""
        named = {name: seconds / count * 1e6 for name, seconds in self.groups.items()}
        total = sum(self.groups.values())
        extra = {"all": total / count * 1e6, "others": max(0.0, self.box - total) / count * 1e6}
        return {name: round(value, 1) for name, value in (named | extra).items()}


class Meter:
    """Measures from its making, or the last ``reset``, to ``read``. ``find_groups`` names the PIDs by group and is
    asked each time, as processes may be started again in between."""

    def __init__(self, find_groups: Callable[[], Groups]) -> None:
        self._find_groups = find_groups
        self.reset()

    def reset(self) -> None:
        self._before = self._look()

    def read(self) -> Usage:
        (groups, box, stolen), (groups_before, box_before, stolen_before) = self._look(), self._before
        used = {name: max(0.0, seconds - groups_before.get(name, 0.0)) for name, seconds in groups.items()}
        return Usage(used, box - box_before, stolen - stolen_before)

    def _look(self) -> tuple[dict[str, float], float, float]:
        groups = {name: cpu_seconds(pids) for name, pids in self._find_groups().items()}
        return groups, *_box_seconds()


def reset_peaks(pids: Iterable[int]) -> None:
    """Let the kernel forget the highest resident size of these processes so far (proc(5), ``clear_refs``)."""
    for pid in pids:
        for process in _tree(pid):
            try:
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")
            except OSError:  # not Linux, or not ours: then the peak is that of its whole life
                pass


def peak_bytes(pids: Iterable[int]) -> dict[int, int]:
    """The highest resident size of each of these processes and their children since ``reset_peaks``, by PID."""
    return {process.pid: _peak_of(process) for pid in pids for process in _tree(pid)}


def _peak_of(process: psutil.Process) -> int:
    try:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return int(process.memory_info().rss)
    except (OSError, psutil.NoSuchProcess):
        return 0
