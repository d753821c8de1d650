"""A small import held in memory: looked at first, then done. For the admin; large files go through the command."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Final

from apps.channels import Channel
from apps.preferences import addresses
from apps.preferences.entries import Entry, read_entry
from apps.preferences.entry_words import Words
from apps.preferences.faults import InvalidEntry
from apps.preferences.import_formats import (
    UTF8_BOM,
    Format,
    InvalidFile,
    check_encoding,
    read_csv_item,
    read_header,
    read_json_item,
)
from apps.preferences.import_framing import Block, Place, Reject, read_blocks
from apps.preferences.import_worker import Job, store_block
from apps.preferences.models import Category, Recipient

ROWS_SHOWN: Final = 20
REJECTS_SHOWN: Final = 100
MAX_BYTES: Final = 2 * 1024 * 1024
_LOOKED_UP_AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True)
class Row:
    """A record as it would be stored, addresses masked. ``state`` is ``new``, ``known`` or ``erased``."""

    line: int
    user_id: str
    state: str
    email: str
    phone: str
    locale: str
    time_zone: str
    preferences: str
    devices: int


@dataclass(slots=True)
class Preview:
    """What an import would do. ``counts`` is by state; ``rejects`` are the first hundred."""

    rows: list[Row] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    rejected: int = 0
    rejects: list[Reject] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """What an import did. ``outcomes`` counts by outcome; ``rejects`` are the first hundred."""

    outcomes: dict[str, int] = field(default_factory=dict)
    rejected: int = 0
    rejects: list[Reject] = field(default_factory=list)


def preview_import(content: bytes, format_: Format) -> Preview:
    """Check every record of ``content`` and show the first twenty. Writes nothing. Raises ``InvalidFile``."""
    job, blocks = _open(content, format_)
    preview = Preview()
    for block in blocks:
        entries: list[tuple[int, Entry]] = []
        rejects = list(block.rejects)
        for line, record in zip(block.lines, block.records, strict=True):
            try:
                item = read_json_item(record) if job.header is None else read_csv_item(record, job.header)
                entries.append((line, read_entry(item, is_whole=False, category_ids=job.category_ids)))
            except InvalidEntry as error:
                rejects += [Reject(line, fault.field, fault.detail) for fault in error.faults]
        states = _select_states([entry.user_id for _, entry in entries])
        for line, entry in entries:
            state = states.get(entry.user_id, "new")
            preview.counts[state] = preview.counts.get(state, 0) + 1
            if len(preview.rows) < ROWS_SHOWN:
                preview.rows.append(_show(line, entry, state))
        preview.rejected += len({reject.line for reject in rejects})
        preview.rejects = (preview.rejects + sorted(rejects))[:REJECTS_SHOWN]
    return preview


def import_content(content: bytes, format_: Format) -> Report:
    """Import ``content`` as ``imports.import_file`` would, in this process. Raises ``InvalidFile``,
    ``OperationalError``; repeating it does no harm."""
    job, blocks = _open(content, format_)
    report = Report()
    for block in blocks:
        done = store_block(block, job)
        for outcome, count in done.outcomes.items():
            report.outcomes[outcome] = report.outcomes.get(outcome, 0) + count
        report.rejected += len({reject.line for reject in done.rejects})
        report.rejects = (report.rejects + done.rejects)[:REJECTS_SHOWN]
    return report


def _open(content: bytes, format_: Format) -> tuple[Job, Iterator[Block]]:
    if len(content) > MAX_BYTES:
        raise InvalidFile(f"The file is larger than {MAX_BYTES // 1024**2} MiB. Use manage.py import_recipients.")
    category_ids = dict(Category.objects.values_list("key", "id"))
    file = BytesIO(content)
    first = file.readline()
    check_encoding(first)
    if format_ is Format.NDJSON:
        start = Place(len(UTF8_BOM) if first.startswith(UTF8_BOM) else 0, 0)
        return Job(None, category_ids), read_blocks(file, start, columns=None)
    header = read_header(first, category_ids)
    return Job(header, category_ids), read_blocks(file, Place(len(first), 1), columns=len(header.names))


def _select_states(user_ids: list[str]) -> dict[str, str]:
    states: dict[str, str] = {}
    for start in range(0, len(user_ids), _LOOKED_UP_AT_ONCE):
        rows = Recipient.objects.filter(user_id__in=user_ids[start : start + _LOOKED_UP_AT_ONCE])
        for user_id, erased_at in rows.values_list("user_id", "erased_at"):
            states[user_id] = "erased" if erased_at else "known"
    return states


def _show(line: int, entry: Entry, state: str) -> Row:
    email, phone = entry.contacts.get(Channel.EMAIL), entry.contacts.get(Channel.SMS)
    return Row(
        line=line,
        user_id=entry.user_id,
        state=state,
        email=addresses.mask_email(email) if email else "",
        phone=addresses.mask_phone(phone) if phone else "",
        locale=entry.plain.get("locale", ""),
        time_zone=entry.plain.get("time_zone", ""),
        preferences=_describe(entry.words),
        devices=len(entry.devices),
    )


def _describe(words: Words | None) -> str:
    if words is None:
        return ""
    parts = [] if words.is_opted_out is None else ["opted out" if words.is_opted_out else "not opted out"]
    parts += [f"{channel.label} {_name(wish)}" for channel, wish in words.channels.items()]
    if words.categories:
        parts.append(f"{len(words.categories)} of categories")
    if words.quiet_hours is not None:
        parts.append(f"{len(words.quiet_hours)} quiet hours")
    return ", ".join(parts)


def _name(wish: bool | None) -> str:
    return "unsaid" if wish is None else "on" if wish else "off"
