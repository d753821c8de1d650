"""What many recipients say about channels, categories and quiet hours: compared and written in a few statements.
The recipients are locked by the caller."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from apps.channels import Channel
from apps.preferences.entry_words import Words
from apps.preferences.quiet_hours import Window

_CHANNELS: Final = """
SELECT recipient_id, channel, is_enabled FROM preferences_channelpreference WHERE recipient_id = ANY(%s)
"""
_CATEGORIES: Final = """
SELECT recipient_id, category_id, channel, is_enabled FROM preferences_categorypreference WHERE recipient_id = ANY(%s)
"""
_QUIET_HOURS: Final = """
SELECT recipient_id, days, start_minute, end_minute FROM preferences_quiethours WHERE recipient_id = ANY(%s)
"""
_SAY_CHANNELS: Final = """
INSERT INTO preferences_channelpreference (recipient_id, channel, is_enabled, updated_at)
SELECT *, statement_timestamp() FROM unnest(%s::bigint[], %s::smallint[], %s::boolean[])
ON CONFLICT (recipient_id, channel) DO UPDATE SET is_enabled = excluded.is_enabled, updated_at = excluded.updated_at
"""
_UNSAY_CHANNELS: Final = """
DELETE FROM preferences_channelpreference said
 USING unnest(%s::bigint[], %s::smallint[]) AS gone (recipient_id, channel)
 WHERE said.recipient_id = gone.recipient_id AND said.channel = gone.channel
"""
_SAY_CATEGORIES: Final = """
INSERT INTO preferences_categorypreference (recipient_id, category_id, channel, is_enabled, updated_at)
SELECT *, statement_timestamp() FROM unnest(%s::bigint[], %s::smallint[], %s::smallint[], %s::boolean[])
ON CONFLICT (recipient_id, category_id, channel)
DO UPDATE SET is_enabled = excluded.is_enabled, updated_at = excluded.updated_at
"""
_UNSAY_CATEGORIES: Final = """
DELETE FROM preferences_categorypreference said
 USING unnest(%s::bigint[], %s::smallint[], %s::smallint[]) AS gone (recipient_id, category_id, channel)
 WHERE said.recipient_id = gone.recipient_id AND said.category_id = gone.category_id AND said.channel = gone.channel
"""
_FORGET_QUIET_HOURS: Final = "DELETE FROM preferences_quiethours WHERE recipient_id = ANY(%s)"
_SET_QUIET_HOURS: Final = """
INSERT INTO preferences_quiethours (recipient_id, days, start_minute, end_minute)
SELECT * FROM unnest(%s::bigint[], %s::smallint[], %s::smallint[], %s::smallint[])
"""

NO_WORDS: Final = Words()

Change = tuple[int, Words]
"""The recipient's number and what is new."""


def select_words(cursor: Any, recipient_ids: Sequence[int]) -> dict[int, Words]:
    """What each of these recipients has said so far."""
    stated = {recipient_id: Words(quiet_hours=()) for recipient_id in recipient_ids}
    cursor.execute(_CHANNELS, [list(recipient_ids)])
    for recipient_id, channel, wish in cursor.fetchall():
        stated[recipient_id].channels[Channel(channel)] = wish
    cursor.execute(_CATEGORIES, [list(recipient_ids)])
    for recipient_id, category_id, channel, wish in cursor.fetchall():
        stated[recipient_id].categories[category_id, Channel(channel)] = wish
    cursor.execute(_QUIET_HOURS, [list(recipient_ids)])
    for recipient_id, *window in cursor.fetchall():
        stated[recipient_id].quiet_hours = (*(stated[recipient_id].quiet_hours or ()), Window(*window))
    return stated


def find_changes(wanted: Words, stated: Words) -> Words:
    """The part of ``wanted`` that is not ``stated`` already; the global opt-out is not looked at."""
    if not wanted.has_details:
        return NO_WORDS
    is_same = wanted.quiet_hours is None or sorted(wanted.quiet_hours) == sorted(stated.quiet_hours or ())
    return Words(
        channels={key: wish for key, wish in wanted.channels.items() if stated.channels.get(key) is not wish},
        categories={key: wish for key, wish in wanted.categories.items() if stated.categories.get(key) is not wish},
        quiet_hours=None if is_same else wanted.quiet_hours,
    )


def store_changes(cursor: Any, changes: Sequence[Change]) -> None:
    """Write ``changes``."""
    channels = [(pk, channel.value, wish) for pk, words in changes for channel, wish in words.channels.items()]
    _execute(cursor, _SAY_CHANNELS, [row for row in channels if row[-1] is not None])
    _execute(cursor, _UNSAY_CHANNELS, [row[:-1] for row in channels if row[-1] is None])
    categories = [
        (pk, category_id, channel.value, wish)
        for pk, words in changes
        for (category_id, channel), wish in words.categories.items()
    ]
    _execute(cursor, _SAY_CATEGORIES, [row for row in categories if row[-1] is not None])
    _execute(cursor, _UNSAY_CATEGORIES, [row[:-1] for row in categories if row[-1] is None])
    quiet = [(pk, words.quiet_hours) for pk, words in changes if words.quiet_hours is not None]
    _execute(cursor, _FORGET_QUIET_HOURS, [(pk,) for pk, _ in quiet])
    _execute(
        cursor,
        _SET_QUIET_HOURS,
        [(pk, window.days, window.start_minute, window.end_minute) for pk, windows in quiet for window in windows],
    )


def _execute(cursor: Any, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
    columns = [list(column) for column in zip(*rows, strict=True)]
    if columns:
        cursor.execute(sql, columns)
