"""Storing a block of an import file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from apps.preferences.bulk_devices import Registration, register_devices
from apps.preferences.bulk_rows import Outcome, rounds_of, store_entries
from apps.preferences.entries import Entry, read_entry
from apps.preferences.faults import InvalidEntry
from apps.preferences.import_formats import Header, read_csv_item, read_json_item
from apps.preferences.import_framing import Block, Reject
from apps.preferences.patience import persist


@dataclass(frozen=True, slots=True)
class Job:
    """What all blocks of an import have in common. ``header`` is that of a CSV file; ``None``: NDJSON."""

    header: Header | None
    category_ids: Mapping[str, int]
    restores_erased: bool = False


@dataclass(slots=True)
class BlockReport:
    """What became of a block's records."""

    outcomes: dict[str, int] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)


def store_block(block: Block, job: Job) -> BlockReport:
    """Store what can be stored of ``block``. Storing it again does no harm. Deadlocks, lock time-outs and lost
    connections are tried again; raises ``OperationalError`` or ``InterfaceError`` in the end."""
    report = BlockReport(rejects=list(block.rejects))
    entries, lines = _read_entries(block, job, report)
    for round_ in rounds_of(entries):
        outcomes = persist(partial(store_entries, round_, revives_erased=job.restores_erased))
        for entry, outcome in zip(round_, outcomes, strict=True):
            if outcome is Outcome.ERASED:
                reason = "The recipient was erased; --restore-erased brings them back."
                report.rejects.append(Reject(lines[id(entry)], "user_id", reason))
            else:
                report.outcomes[outcome.value] = report.outcomes.get(outcome.value, 0) + 1
        devices = [Registration(entry.user_id, device) for entry in round_ for device in entry.devices]
        if devices:
            persist(partial(register_devices, devices))
    report.rejects.sort()
    return report


def _read_entries(block: Block, job: Job, report: BlockReport) -> tuple[list[Entry], dict[int, int]]:
    entries: list[Entry] = []
    lines: dict[int, int] = {}
    for line, record in zip(block.lines, block.records, strict=True):
        try:
            item = read_json_item(record) if job.header is None else read_csv_item(record, job.header)
            entry = read_entry(item, is_whole=False, category_ids=job.category_ids)
        except InvalidEntry as error:
            report.rejects += [Reject(line, fault.field, fault.detail) for fault in error.faults]
            continue
        lines[id(entry)] = line
        entries.append(entry)
    return entries, lines
