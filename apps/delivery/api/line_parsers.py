"""Bodies that are lists of people, one a line. They are not read here: the view takes them a block at a time."""

from collections.abc import Mapping
from typing import IO, Any

from django.conf import settings
from rest_framework.parsers import BaseParser

from apps.preferences.import_formats import Format
from apps.problems import Problem


class _LinesParser(BaseParser):
    format: Format

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        """The format and the bytes; raises ``Problem`` 413."""
        limit: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        body: bytes = stream.read(limit + 1)
        if len(body) > limit:
            raise Problem(
                413, "body-too-large", f"The body may have at most {limit} bytes. Send the rest to …/{{id}}/lines."
            )
        return self.format, body


class CsvParser(_LinesParser):
    """``text/csv`` (RFC 4180) in UTF-8."""

    media_type = "text/csv"
    format = Format.CSV


class NdjsonParser(_LinesParser):
    """``application/x-ndjson``: one JSON object a line."""

    media_type = "application/x-ndjson"
    format = Format.NDJSON
