"""Many recipients written at once: what ``services.upsert_recipient`` and ``update_preferences`` do for one, in a
handful of statements for thousands. Their devices follow in transactions of their own (``bulk_devices.py``).

The rows that exist are locked and compared here, so that what is already so is neither encrypted nor written nor
raised in version. The rest goes through a temporary table.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import partial
from typing import Any, Final

from django.db import connection, transaction
from django.utils import timezone

from apps.channels import Channel
from apps.preferences import addresses, cache, cipher
from apps.preferences.bulk_words import NO_WORDS, find_changes, select_words, store_changes
from apps.preferences.entries import Entry
from apps.preferences.entry_words import Words
from apps.preferences.locks import enter_gates

USER_IDS_PER_CALL: Final = 1_000
_encode_json: Final = json.JSONEncoder(ensure_ascii=False).encode

_SELECT: Final = """
SELECT user_id, id, is_opted_out, erased_at IS NOT NULL, locale, time_zone, attributes::text,
       email_ct, email_bi, email_set_at, phone_ct, phone_bi, phone_set_at
  FROM preferences_recipient WHERE user_id = ANY(%s) ORDER BY id FOR UPDATE
"""
_STAGE: Final = """
CREATE TEMPORARY TABLE staged_recipient (
    id bigint, user_id text COLLATE "C", is_opted_out boolean, locale text, time_zone text, attributes text,
    email_ct bytea, email_bi bytea, email_set_at timestamptz,
    phone_ct bytea, phone_bi bytea, phone_set_at timestamptz
)
"""
_TYPES: Final = (
    "int8", "text", "bool", "text", "text", "text", "bytea", "bytea", "timestamptz", "bytea", "bytea", "timestamptz",
)  # fmt: skip
# In the order of the user ids, so that two bulk writes that meet in new ones wait for each other and do not deadlock.
_INSERT: Final = """
INSERT INTO preferences_recipient (user_id, is_opted_out, locale, time_zone, attributes,
                                   email_ct, email_bi, email_set_at, phone_ct, phone_bi, phone_set_at)
SELECT user_id, is_opted_out, locale, time_zone, attributes::jsonb,
       email_ct, email_bi, email_set_at, phone_ct, phone_bi, phone_set_at
  FROM staged_recipient WHERE id IS NULL ORDER BY user_id
ON CONFLICT (user_id) DO NOTHING
RETURNING user_id, id
"""
_UPDATE: Final = """
UPDATE preferences_recipient r
   SET is_opted_out = s.is_opted_out, locale = s.locale, time_zone = s.time_zone, attributes = s.attributes::jsonb,
       email_ct = s.email_ct, email_bi = s.email_bi, email_set_at = s.email_set_at,
       phone_ct = s.phone_ct, phone_bi = s.phone_bi, phone_set_at = s.phone_set_at,
       version = greatest(r.version + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint),
       updated_at = statement_timestamp(), erased_at = NULL
  FROM staged_recipient s WHERE r.id = s.id
"""


class Outcome(Enum):
    """What became of an entry. ``CREATED`` includes an erased recipient brought back; ``ERASED`` is one that was not,
    because the caller did not ask for it: nothing was written."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    ERASED = "erased"


_Sealed = tuple[bytes | None, bytes | None, datetime | None]  # ciphertext, blind index, set at
_NO_ADDRESS: Final[_Sealed] = (None, None, None)
_COLUMNS: Final = {Channel.EMAIL: "email_ct", Channel.SMS: "phone_ct"}


@dataclass(slots=True)
class _Recipient:
    """A recipient as it is, locked, or as it is to be."""

    user_id: str
    id: int | None = None
    is_opted_out: bool = False
    is_erased: bool = False
    locale: str = ""
    time_zone: str = ""
    attributes: str = "{}"
    email: _Sealed = _NO_ADDRESS
    phone: _Sealed = _NO_ADDRESS
    stated: Words = NO_WORDS

    def row(self) -> tuple[Any, ...]:
        return (
            self.id, self.user_id, self.is_opted_out, self.locale, self.time_zone, self.attributes,
            *self.email, *self.phone,
        )  # fmt: skip


@dataclass(slots=True)
class _Plan:
    """What is to be done about one entry."""

    user_id: str
    outcome: Outcome
    row: tuple[Any, ...] | None = None
    recipient_id: int | None = None
    said: Words = NO_WORDS


@transaction.atomic
def store_entries(entries: Sequence[Entry], *, revives_erased: bool = True) -> list[Outcome]:
    """Write the recipients of ``entries`` and their word about channels, without their devices; one outcome for each,
    in order. A few thousand at a time: all are locked. The same entries again change nothing.

    No user id may stand among them twice (``ValueError``): see ``rounds_of``."""
    pending = {entry.user_id: entry for entry in entries}
    if len(pending) != len(entries):
        raise ValueError("A user id stands twice among the entries; store them in rounds.")
    enter_gates()
    now = timezone.now()
    outcomes: dict[str, Outcome] = {}
    with connection.cursor() as cursor:
        cursor.execute(_STAGE)
        while pending:  # again only for user ids that somebody else created since they were looked for
            recipients = _lock_recipients(cursor, pending)
            plans = [_plan(entry, recipients.get(entry.user_id), now, revives_erased) for entry in pending.values()]
            ids = _write_rows(cursor, [plan.row for plan in plans if plan.row is not None])
            done = [plan for plan in plans if plan.recipient_id is not None or plan.user_id in ids]
            said = [plan for plan in done if plan.said.has_details]
            store_changes(cursor, [(plan.recipient_id or ids[plan.user_id], plan.said) for plan in said])
            outcomes.update((plan.user_id, plan.outcome) for plan in done)
            for plan in done:
                del pending[plan.user_id]
        cursor.execute("DROP TABLE staged_recipient")
    changed = [user_id for user_id, outcome in outcomes.items() if outcome is not Outcome.UNCHANGED]
    transaction.on_commit(partial(_forget, changed), robust=True)
    return [outcomes[entry.user_id] for entry in entries]


def rounds_of(entries: Sequence[Entry]) -> list[list[Entry]]:
    """``entries`` in lists of which none names a user id twice; stored one after the other they come to the same as
    the entries stored one by one."""
    rounds: list[dict[str, Entry]] = []
    last_round: dict[str, int] = {}
    for entry in entries:
        number = last_round.get(entry.user_id, -1) + 1
        if number == len(rounds):
            rounds.append({})
        rounds[number][entry.user_id] = entry
        last_round[entry.user_id] = number
    return [list(round_.values()) for round_ in rounds]


def _lock_recipients(cursor: Any, pending: dict[str, Entry]) -> dict[str, _Recipient]:
    cursor.execute(_SELECT, [list(pending)])
    recipients = {}
    for user_id, pk, is_opted_out, is_erased, locale, zone, attributes, *seals in cursor.fetchall():
        email, phone = (seals[0], seals[1], seals[2]), (seals[3], seals[4], seals[5])
        recipients[user_id] = _Recipient(user_id, pk, is_opted_out, is_erased, locale, zone, attributes, email, phone)
    asked = {row.id: row for user_id, row in recipients.items() if row.id and _words(pending[user_id]).has_details}
    if asked:
        for recipient_id, stated in select_words(cursor, list(asked)).items():
            asked[recipient_id].stated = stated
    return recipients


def _words(entry: Entry) -> Words:
    return NO_WORDS if entry.words is None else entry.words


def _plan(entry: Entry, stored: _Recipient | None, now: datetime, revives_erased: bool) -> _Plan:
    if stored is None:
        wanted = _apply(entry, _Recipient(entry.user_id), now)
        return _Plan(entry.user_id, Outcome.CREATED, wanted.row(), said=find_changes(_words(entry), NO_WORDS))
    if stored.is_erased and not revives_erased:
        return _Plan(entry.user_id, Outcome.ERASED, recipient_id=stored.id)
    before = stored.row()
    said = find_changes(_words(entry), stored.stated)
    row = _apply(entry, stored, now).row()
    if stored.is_erased:
        return _Plan(entry.user_id, Outcome.CREATED, row, stored.id, said)
    if row == before and not said.has_details:
        return _Plan(entry.user_id, Outcome.UNCHANGED, recipient_id=stored.id)
    return _Plan(entry.user_id, Outcome.UPDATED, row, stored.id, said)


def _apply(entry: Entry, recipient: _Recipient, now: datetime) -> _Recipient:
    is_opted_out = _words(entry).is_opted_out
    if is_opted_out is not None:
        recipient.is_opted_out = is_opted_out
    plain = entry.plain
    recipient.locale = plain.get("locale", recipient.locale)
    recipient.time_zone = plain.get("time_zone", recipient.time_zone)
    attributes = plain.get("attributes")
    if attributes is not None and not _is_same_json(recipient.attributes, attributes):
        recipient.attributes = _encode_json(attributes)
    for channel, address in entry.contacts.items():
        if channel is Channel.EMAIL:
            recipient.email = _seal(channel, address, recipient.email, entry.user_id, now)
        else:
            recipient.phone = _seal(channel, address, recipient.phone, entry.user_id, now)
    return recipient


def _is_same_json(stored: str, wanted: dict[str, Any]) -> bool:
    if stored == "{}" or not wanted:
        return stored == "{}" and not wanted
    # As text: to Python 1, 1.0 and True are the same.
    return json.dumps(json.loads(stored), sort_keys=True) == json.dumps(wanted, sort_keys=True)


def _seal(channel: Channel, address: str | None, stored: _Sealed, user_id: str, now: datetime) -> _Sealed:
    if address is None:
        return _NO_ADDRESS
    aad = cipher.recipient_aad(_COLUMNS[channel], user_id)
    plaintext = address.encode()
    if stored[0] is not None:
        try:
            if cipher.decrypt(stored[0], aad) == plaintext:
                return stored
        except cipher.CipherError:  # the key is lost: writing the address anew mends the row
            pass
    kind = addresses.KIND_OF_CHANNEL[channel]
    return cipher.encrypt(plaintext, aad), cipher.blind_index_of_normalised(kind, address), now


def _write_rows(cursor: Any, rows: Collection[tuple[Any, ...]]) -> dict[str, int]:
    """Writes them and returns the ids of those inserted, by user id."""
    if not rows:
        return {}
    cursor.execute("TRUNCATE staged_recipient")
    with cursor.copy("COPY staged_recipient FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(_TYPES)
        for row in rows:
            copy.write_row(row)
    if any(row[0] is not None for row in rows):
        cursor.execute(_UPDATE)
    if all(row[0] is not None for row in rows):
        return {}
    cursor.execute(_INSERT)
    return dict(cursor.fetchall())


def _forget(user_ids: Sequence[str]) -> None:
    for start in range(0, len(user_ids), USER_IDS_PER_CALL):
        cache.forget_snapshots(user_ids[start : start + USER_IDS_PER_CALL])
