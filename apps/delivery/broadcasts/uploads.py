"""Audiences uploaded as lists of user ids, in as many requests as they need. A request counts whole or not at all."""

import csv
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from typing import Final, NamedTuple
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from apps.delivery.broadcasts.models import AudienceUpload
from apps.delivery.ids import new_notification_id
from apps.preferences.import_formats import UTF8_BOM, Format, InvalidFile, check_encoding, find_user_id
from apps.preferences.import_framing import Place, read_blocks
from apps.problems import Problem, invalid_field

MAX_LINES: Final = 10_000_000
PROBLEMS_KEPT: Final = 100
_IDS_PER_PART: Final = 10_000
_UNREADABLE: Final = {
    Format.CSV: "the row has no user id in the column user_id, or more cells than that and no header names them",
    Format.NDJSON: 'the line is not an object with a user_id, such as {"user_id": "user-1"}',
}
_UNKNOWN_USER: Final = "there is no such user"


class LineProblem(NamedTuple):
    """A line that names nobody, numbered from 1 in its request; without what stands on it."""

    line: int
    detail: str


@dataclass(slots=True)
class Bite:
    """What became of the lines of one request."""

    lines: int = 0
    known: int = 0
    unknown: int = 0
    problems: list[LineProblem] = field(default_factory=list)

    def add_problem(self, line: int, detail: str) -> None:
        """Keeps it if it is among the first."""
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(LineProblem(line, detail))


def create_upload(client_id: int, format_: Format, body: bytes, *, name: str = "") -> tuple[AudienceUpload, Bite]:
    """A new upload with the lines of ``body``; raises a 422 ``Problem`` for what is no list at all."""
    with transaction.atomic():
        upload = AudienceUpload.objects.create(
            id=new_notification_id(), client_id=client_id, name=name, created_at=timezone.now()
        )
        return upload, _add(upload, format_, body)


def append_lines(client_id: int, upload_id: UUID, format_: Format, body: bytes) -> tuple[AudienceUpload, Bite]:
    """Adds the lines of ``body``; raises ``Problem`` 404, or 409 once a broadcast uses the upload."""
    with transaction.atomic():
        upload = _lock(client_id, upload_id)
        if upload is None:
            raise Problem(404, "not-found", "you have no audience with this id")
        if upload.is_complete:
            raise Problem(409, "audience-in-use", "a broadcast uses this audience already; upload another one")
        return upload, _add(upload, format_, body)


def select_upload(client_id: int, upload_id: UUID) -> AudienceUpload | None:
    """A client's own upload; ``None`` also for another's."""
    return AudienceUpload.objects.filter(id=upload_id, client_id=client_id).first()


def seal_upload(client_id: int, upload_id: UUID, pointer: str = "/audience/upload_id") -> AudienceUpload:
    """Nothing is added to it from now on. Call it in the transaction that makes the broadcast; raises ``Problem`` 422
    for an upload that is not the client's."""
    upload = _lock(client_id, upload_id)
    if upload is None:
        raise unknown_upload(pointer)
    AudienceUpload.objects.filter(id=upload_id).update(is_complete=True)
    return upload


def unknown_upload(pointer: str) -> Problem:
    """422 for an upload that is not there or not the client's."""
    return invalid_field(pointer, "you have no such audience; POST /v1/audiences makes one", "unknown_audience")


def forget_uploads(*, retention_days: int) -> int:
    """Deletes older uploads, but for those that a broadcast has yet to plan; returns how many."""
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH old AS (SELECT u.id FROM audience_upload u WHERE u.created_at < now() - make_interval(days => %s)"
            " AND NOT EXISTS (SELECT FROM broadcast b WHERE b.state <= 6 AND NOT b.is_planned"
            " AND b.audience ->> 'upload_id' = u.id::text)),"
            " parts AS (DELETE FROM audience_upload_part WHERE upload_id IN (SELECT id FROM old))"
            " DELETE FROM audience_upload WHERE id IN (SELECT id FROM old)",
            [retention_days],
        )
        return int(cursor.rowcount)


def _lock(client_id: int, upload_id: UUID) -> AudienceUpload | None:
    return AudienceUpload.objects.select_for_update().filter(id=upload_id, client_id=client_id).first()


def _add(upload: AudienceUpload, format_: Format, body: bytes) -> Bite:
    """Stores who is on the lines, and counts them on the upload, which the caller has locked or just made."""
    bite = Bite()
    remaining = _read_lines(body, format_)
    while lines := list(islice(remaining, _IDS_PER_PART)):
        ids = _find_recipients(line.user_id for line in lines if line.user_id is not None)
        found = [ids[line.user_id] for line in lines if line.user_id in ids]
        _insert_part(upload, found)
        for line in lines:
            if line.user_id is None:
                bite.add_problem(line.number, line.reason)
            elif line.user_id not in ids:
                bite.unknown += 1
                bite.add_problem(line.number, _UNKNOWN_USER)
        bite.lines += len(lines)
        bite.known += len(found)
    if upload.lines + bite.lines > MAX_LINES:
        raise invalid_field("", f"an audience has at most {MAX_LINES:,} lines", "too_large")
    upload.lines += bite.lines
    upload.known += bite.known
    upload.unknown += bite.unknown
    room = PROBLEMS_KEPT - len(upload.problems)
    upload.problems += [problem._asdict() for problem in bite.problems[:room]]
    upload.save(update_fields=["lines", "known", "unknown", "problems"])
    return bite


def _insert_part(upload: AudienceUpload, ids: Collection[int]) -> None:
    if ids:
        with (
            connection.cursor() as cursor
        ):  # as text: adapting thousands of numbers one by one costs more than all else
            cursor.execute(
                "INSERT INTO audience_upload_part (upload_id, recipient_ids) VALUES (%s, %s::bigint[])",
                [upload.id, f"{{{','.join(map(str, ids))}}}"],
            )


def _find_recipients(user_ids: Iterable[str]) -> dict[str, int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT user_id, id FROM preferences_recipient WHERE user_id = ANY(%s::varchar[]) AND erased_at IS NULL",
            [list(set(user_ids))],
        )
        return dict(cursor.fetchall())


class _Line(NamedTuple):
    number: int
    user_id: str | None
    reason: str = ""


def _read_lines(body: bytes, format_: Format) -> Iterator[_Line]:
    """The lines that are not blank and not the header; raises ``Problem`` 422 for a body that is no text."""
    try:
        check_encoding(body)
    except InvalidFile as error:
        raise invalid_field("", str(error), "encoding") from None
    start = Place(len(UTF8_BOM) if body.startswith(UTF8_BOM) else 0, 0)
    columns = place = None
    if format_ is Format.CSV:
        columns, place, start = _read_header(body, start)
    for block in read_blocks(BytesIO(body), start, columns=columns):
        lines = [_Line(reject.line, None, reject.reason) for reject in block.rejects]
        for number, record in zip(block.lines, block.records, strict=True):
            user_id = find_user_id(record, None) if columns is None else _read_cell(record, columns, place or 0)
            is_sound = user_id is not None and "\0" not in user_id
            lines.append(_Line(number, user_id) if is_sound else _Line(number, None, _UNREADABLE[format_]))
        yield from sorted(lines)


def _read_header(body: bytes, start: Place) -> tuple[int, int, Place]:
    """How many cells a row has, which of them is the user id, and where the rows begin: with the first line, if that
    does not name the columns."""
    first, newline, _ = body[start.offset :].partition(b"\n")
    try:
        cells = [cell.strip() for cell in next(csv.reader([first.decode()], strict=True), [])]
    except (UnicodeDecodeError, csv.Error):
        cells = []
    if cells.count("user_id") != 1:
        return 1, 0, start
    return len(cells), cells.index("user_id"), Place(start.offset + len(first) + len(newline), 1)


def _read_cell(record: bytes, columns: int, place: int) -> str | None:
    try:
        text = record.decode().rstrip("\r\n")
        cells = text.split(",") if '"' not in text else next(csv.reader([text], strict=True))
    except (UnicodeDecodeError, csv.Error, StopIteration):
        return None
    return cells[place].strip() or None if len(cells) == columns else None
