"""``manage.py export_recipients [FILE]``."""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
from django.core.management.base import BaseCommand, CommandError

from apps.preferences.exports import iterate_recipients


class Command(BaseCommand):
    help = (
        "Writes every recipient as a line of NDJSON, in clear, in the form that import_recipients takes. "
        "The file is readable by its owner only; erased recipients are not in it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, nargs="?", help="a new file (default: standard output)")
        parser.add_argument("--without-devices", action="store_true", help="leave push tokens out")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            with _open(options["file"]) as file:
                count = _write(file, with_devices=not options["without_devices"])
        except BrokenPipeError:  # whoever read standard output has had enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return
        self.stderr.write(f"{count:,} recipients were exported.")


def _write(file: BinaryIO, *, with_devices: bool) -> int:
    count = 0
    for item in iterate_recipients(with_devices=with_devices):
        file.write(msgspec.json.encode(item) + b"\n")
        count += 1
    return count


@contextmanager
def _open(path: Path | None) -> Iterator[BinaryIO]:
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise CommandError(f"{path} cannot be made: {error.strerror}.") from None
    with os.fdopen(descriptor, "wb") as file:
        yield file
