"""What the arguments of a task must look like, beyond its signature, for a worker to begin with it."""

from collections.abc import Callable, Mapping

UUID_LENGTH = 36
MAX_IDS = 5_000  # ten times what a doorbell carries


def find_fault_in_ids(ids: object) -> str | None:
    """Why ``ids`` are no delivery ids; ``None`` if they are."""
    if not isinstance(ids, list) or not all(isinstance(one, str) and len(one) == UUID_LENGTH for one in ids):
        return "no ids"
    try:
        bytes.fromhex("".join(ids).replace("-", ""))
    except ValueError:
        return "no ids"
    return "too many ids" if len(ids) > MAX_IDS else None


def find_fault_in_canary(queue: object, rung_at_s: object) -> str | None:
    """Why this is no canary; ``None`` if it is one."""
    return None if isinstance(queue, str) and isinstance(rung_at_s, float) else "no canary"


CHECKS: Mapping[str, Callable[..., str | None]] = {
    "notify.deliver": find_fault_in_ids,
    "notify.canary": find_fault_in_canary,
}
