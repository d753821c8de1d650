"""Recipients for the benchmarks, made fast: ciphertext and blind indexes like any other's, straight into the tables."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from django.db import connection
from psycopg.types.json import Jsonb

from apps.preferences import cipher
from benchmarks.names import email_of, token_of, user_id_of

LOCALES = ("en-GB", "de-DE", "fr-FR", "pt-BR")
BATCH = 20_000
_RECIPIENT_TYPES = ("int8", "text", "text", "text", "jsonb", "bytea", "bytea", "timestamptz")
_DEVICE_TYPES = ("int8", "text", "bytea", "bytea")


def make_people(first: int, last: int, cohorts: Sequence[int] = ()) -> None:
    """People numbered ``first`` to ``last`` (inclusive), each with one Android device and an e-mail address. Their
    attribute ``bench`` is their number; the first ``n`` of all have an attribute ``first_<n>``, which is true, for each
    ``n`` of ``cohorts``. They must not exist yet."""
    for low in range(first, last + 1, BATCH):
        numbers = range(low, min(low + BATCH, last + 1))
        with connection.cursor() as cursor:
            cursor.execute("SELECT nextval(pg_get_serial_sequence('preferences_recipient', 'id'))")
            base = int(cursor.fetchone()[0])
            cursor.execute(
                "SELECT setval(pg_get_serial_sequence('preferences_recipient', 'id'), %s)", [base + len(numbers)]
            )
            recipients = (
                "preferences_recipient (id, user_id, locale, time_zone, attributes, email_ct, email_bi, email_set_at)"
            )
            _copy(cursor, recipients, _RECIPIENT_TYPES, _recipients(numbers, base, cohorts))
            _copy(
                cursor,
                "preferences_device (recipient_id, platform, token_ct, token_bi)",
                _DEVICE_TYPES,
                _devices(numbers, base),
            )
    with connection.cursor() as cursor:
        for table in ("preferences_recipient", "preferences_device"):
            cursor.execute(f"VACUUM (ANALYZE) {table}")


def _copy(cursor: Any, target: str, types: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> None:
    with cursor.copy(f"COPY {target} FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)


def _recipients(numbers: range, base: int, cohorts: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    now = datetime.now(UTC)
    for place, number in enumerate(numbers):
        user_id = user_id_of(number)
        email = email_of(number)
        email_ct = cipher.encrypt(email.encode(), cipher.recipient_aad("email_ct", user_id))
        email_bi = cipher.blind_index_of_normalised("email", email)
        locale = LOCALES[number % len(LOCALES)]
        attributes = {"bench": number} | {f"first_{size}": True for size in cohorts if number <= size}
        yield base + place, user_id, locale, "Europe/London", Jsonb(attributes), email_ct, email_bi, now


def _devices(numbers: range, base: int) -> Iterator[tuple[Any, ...]]:
    for place, number in enumerate(numbers):
        token = token_of(number)
        token_ct = cipher.encrypt(token.encode(), cipher.device_aad(user_id_of(number)))
        yield base + place, "android", token_ct, cipher.blind_index_of_normalised("token", token)
