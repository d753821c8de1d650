"""Recipients from a file, many thousands a second: blocks are read here, checked, encrypted and stored in processes of
their own, and accounted for here in the order of the file."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO, Final

from django.db import InterfaceError, OperationalError, connection

from apps.preferences import import_progress
from apps.preferences.import_formats import (
    UTF8_BOM,
    Format,
    Header,
    InvalidFile,
    check_encoding,
    find_user_id,
    read_header,
)
from apps.preferences.import_framing import MAX_RECORD_BYTES, Block, Place, read_blocks
from apps.preferences.import_process import start_process, store_block_here
from apps.preferences.import_progress import Progress, RejectList
from apps.preferences.import_worker import BlockReport, Job, store_block
from apps.preferences.models import Category

MAX_PROCESSES: Final = 16
BLOCKS_AHEAD: Final = 2
SMALL_FILE_BYTES: Final = 1024 * 1024  # not worth starting processes for


class ImportStopped(Exception):
    """The database or a worker process went away for longer than patience lasts. What was done is recorded."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to import, and where to keep the books. ``format`` of ``None`` goes by the file's name."""

    file: Path
    rejects: Path
    progress: Path
    format: Format | None = None
    is_resumed: bool = False
    restores_erased: bool = False
    processes: int = 0

    def find_format(self) -> Format:
        """The format. Raises ``InvalidFile`` if it cannot be told."""
        if self.format is not None:
            return self.format
        match self.file.suffix.lower():
            case ".csv":
                return Format.CSV
            case ".ndjson" | ".jsonl":
                return Format.NDJSON
        raise InvalidFile("The file's name does not tell its format; say --format csv or --format ndjson.")


def import_file(plan: Plan, *, report: Callable[[Progress], None] = lambda progress: None) -> Progress:
    """Import ``plan.file`` and return the final account. ``report`` is called after every block.

    Fields a record leaves out stay as they are. A user's records take effect in the order of the file. The progress
    file is removed in the end. Raises ``InvalidFile``, ``OSError``; ``ImportStopped``, after which the import can
    be resumed."""
    with plan.file.open("rb") as file:
        progress = (
            import_progress.load(plan.progress, plan.file) if plan.is_resumed else import_progress.begin(plan.file)
        )
        header, beginning = _read_beginning(file, plan.find_format())
        job = Job(header, _select_category_ids(), plan.restores_erased)
        if progress.offset == 0:
            progress.offset, progress.line = beginning
        rejects = RejectList(plan.rejects, progress.rejects_size)
        blocks = read_blocks(file, progress.place, columns=len(header.names) if header else None)
        try:
            with _start_processes(plan, job, progress) as pool:
                for block, done in _store_in_order(blocks, job, pool):
                    _account(progress, block, done, rejects)
                    import_progress.save(plan.progress, progress)
                    report(progress)
        except (OperationalError, InterfaceError, BrokenProcessPool) as error:
            raise ImportStopped(type(error).__name__) from error
    plan.progress.unlink(missing_ok=True)
    return progress


def _select_category_ids() -> dict[str, int]:
    return dict(Category.objects.values_list("key", "id"))


def _read_beginning(file: BinaryIO, format_: Format) -> tuple[Header | None, Place]:
    """A CSV file's header, and where the records begin."""
    first = file.readline(MAX_RECORD_BYTES)
    check_encoding(first)
    if format_ is Format.NDJSON:
        return None, Place(len(UTF8_BOM) if first.startswith(UTF8_BOM) else 0, 0)
    return read_header(first, _select_category_ids()), Place(len(first), 1)


@contextmanager
def _start_processes(plan: Plan, job: Job, progress: Progress) -> Iterator[Executor | None]:
    count = plan.processes or min(os.cpu_count() or 1, MAX_PROCESSES)
    if count == 1 or progress.size - progress.offset < SMALL_FILE_BYTES:
        yield None
        return
    database = str(connection.settings_dict["NAME"])
    pool = ProcessPoolExecutor(
        count, mp_context=get_context("spawn"), initializer=start_process, initargs=(database, job)
    )
    with pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _store_in_order(blocks: Iterator[Block], job: Job, pool: Executor | None) -> Iterator[tuple[Block, BlockReport]]:
    """Each block with its report, in order; blocks that share a user are not stored at the same time."""
    if pool is None:
        for block in blocks:
            yield block, store_block(block, job)
        return
    under_way: deque[tuple[Block, set[str | None], Future[BlockReport]]] = deque()
    limit = BLOCKS_AHEAD * getattr(pool, "_max_workers", 1) + 1
    for block in blocks:
        users = {find_user_id(record, job.header) for record in block.records} - {None}
        while under_way and (len(under_way) >= limit or _meets(users, under_way)):
            earlier, _, future = under_way.popleft()
            yield earlier, future.result()
        under_way.append((block, users, pool.submit(store_block_here, block)))
    for earlier, _, future in under_way:
        yield earlier, future.result()


def _meets(users: set[str | None], under_way: deque[tuple[Block, set[str | None], Future[BlockReport]]]) -> bool:
    return any(not future.done() and not users.isdisjoint(others) for _, others, future in under_way)


def _account(progress: Progress, block: Block, done: BlockReport, rejects: RejectList) -> None:
    for outcome, count in done.outcomes.items():
        progress.outcomes[outcome] = progress.outcomes.get(outcome, 0) + count
    progress.rejected += len({reject.line for reject in done.rejects})
    progress.rejects_size = rejects.append(done.rejects)
    progress.offset, progress.line = block.end
