"""The times of a transport."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: to connect, for one request in all, and after which a call of ``send_all`` starts no more requests."""

    connect_s: float = 1.0
    total_s: float = 2.0
    call_s: float = 8.0
