"""Re-encrypting what older keys encrypted, while everything runs.

An app registers each of its encrypted columns with ``register``. Rows are read in the order of their keys, a batch at
a time, and written back only if the ciphertext is still the one that was read: nothing is locked while keys are at
work, and a change by somebody else wins. What has the active key's id in its header is passed over, so an
interrupted rotation is simply run again. The versions of the recipients concerned go up, since cached snapshots hold
ciphertext of the old key.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from django.db import connection, transaction

from apps.preferences import cipher
from apps.preferences.locks import lock_recipients, raise_versions
from apps.preferences.models import Recipient
from apps.preferences.patience import persist

ROWS_PER_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of ciphertext. The SQL is the app's own and never holds a value.

    ``key`` is the table's primary key and ``key_type`` its type; ``context`` is an SQL expression over the table's
    alias ``t`` whose value ``aad`` turns into the additional data; ``owner``, one for the number of the recipient
    whose version goes up (``NULL``: nobody's)."""

    table: str
    column: str
    key: str
    key_type: str
    context: str
    aad: Callable[[Any], str]
    owner: str = "NULL::bigint"

    @property
    def name(self) -> str:
        return f"{self.table}.{self.column}"


@dataclass(slots=True)
class Batch:
    """What was done about some rows. ``unreadable`` are the keys of rows that no key of ours opens."""

    resealed: int = 0
    overtaken: int = 0
    unreadable: list[Any] = field(default_factory=list)


_columns: dict[str, SealedColumn] = {}


def register(column: SealedColumn) -> None:
    """Have ``column`` rotated; apps call it when they start."""
    _columns[column.name] = column


def columns() -> list[SealedColumn]:
    """All registered columns."""
    return list(_columns.values())


def count_keys(column: SealedColumn) -> dict[int, int]:
    """How many rows were encrypted with which key, by its id. Reads the whole table."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT get_byte({column.column}, 1), count(*) FROM {column.table}"  # noqa: S608 - names of ours
            f" WHERE octet_length({column.column}) > 1 GROUP BY 1 ORDER BY 1"
        )
        return dict(cursor.fetchall())


def rotate(column: SealedColumn) -> Iterator[Batch]:
    """Re-encrypt with the active key what another key encrypted; yields after every batch, committed."""
    active, last = cipher.active_key_id(), None
    while rows := _select_batch(column, active, last):
        last = rows[-1][0]
        yield _reseal(column, rows)


def _select_batch(column: SealedColumn, active: int, last: Any) -> list[tuple[Any, bytes, Any, int | None]]:
    after = "" if last is None else f"AND t.{column.key} > %s"
    sql = (
        f"SELECT t.{column.key}, t.{column.column}, {column.context}, {column.owner}"  # noqa: S608 - names of ours
        f" FROM {column.table} t"
        f" WHERE octet_length(t.{column.column}) > 1 AND get_byte(t.{column.column}, 1) <> %s {after}"
        f" ORDER BY t.{column.key} LIMIT %s"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [active, *([] if last is None else [last]), ROWS_PER_BATCH])
        return [(key, bytes(blob), context, owner) for key, blob, context, owner in cursor.fetchall()]


def _reseal(column: SealedColumn, rows: Sequence[tuple[Any, bytes, Any, int | None]]) -> Batch:
    batch = Batch()
    keys, old, new, owners = [], [], [], set()
    for key, blob, context, owner in rows:
        aad = column.aad(context)
        try:
            plaintext = cipher.decrypt(blob, aad)
        except cipher.CipherError:
            batch.unreadable.append(key)
            continue
        keys.append(key)
        old.append(blob)
        new.append(cipher.encrypt(plaintext, aad))
        owners.add(owner)
    if keys:
        owned = [owner for owner in owners if owner is not None]
        batch.resealed = persist(partial(_write, column, keys, old, new, owned))
        batch.overtaken = len(keys) - batch.resealed
    return batch


@transaction.atomic
def _write(column: SealedColumn, keys: list[Any], old: list[bytes], new: list[bytes], owners: list[int]) -> int:
    recipients = lock_recipients(Recipient.objects.filter(pk__in=owners)) if owners else []
    sql = (
        f"UPDATE {column.table} t SET {column.column} = fresh.new"  # noqa: S608 - names of ours
        f" FROM unnest(%s::{column.key_type}[], %s::bytea[], %s::bytea[]) AS fresh (key, old, new)"
        f" WHERE t.{column.key} = fresh.key AND t.{column.column} = fresh.old"
        f" AND t.{column.key} BETWEEN %s AND %s"
    )
    with connection.cursor() as cursor:
        cursor.execute(sql, [keys, old, new, keys[0], keys[-1]])
        written: int = cursor.rowcount
    raise_versions(recipients)
    return written


def register_own() -> None:
    """Register this app's columns."""
    for name in ("email_ct", "phone_ct"):
        register(
            SealedColumn(
                table="preferences_recipient",
                column=name,
                key="id",
                key_type="bigint",
                context="t.user_id",
                aad=_RECIPIENT_AADS[name],
                owner="t.id",
            )
        )
    register(
        SealedColumn(
            table="preferences_device",
            column="token_ct",
            key="id",
            key_type="bigint",
            context="(SELECT r.user_id FROM preferences_recipient r WHERE r.id = t.recipient_id)",
            aad=cipher.device_aad,
            owner="t.recipient_id",
        )
    )


_RECIPIENT_AADS: Final[dict[str, Callable[[Any], str]]] = {
    "email_ct": lambda user_id: cipher.recipient_aad("email_ct", user_id),
    "phone_ct": lambda user_id: cipher.recipient_aad("phone_ct", user_id),
}

register_own()
