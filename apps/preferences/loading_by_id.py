"""Snapshots for a chunk of a broadcast: many recipients whose ids lie close together, asked about one channel.

Everything comes from PostgreSQL, as so many people are never in the cache, and would push everybody else out of it. A
statement reads a table for all recipients at once, as most of them have no row in most tables; each sees what was
committed before it began, and nothing of it is kept."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from apps import pg_arrays
from apps.channels import Channel
from apps.pg_prepared import run_prepared
from apps.preferences.quiet_hours import NO_WINDOWS, Window, unpack_window
from apps.preferences.snapshots import NO_CHANNELS, WISH_NO, WISH_YES, DeviceSnapshot, RecipientSnapshot

_BASE: Final = "r.id, r.user_id, r.version, r.is_opted_out, r.erased_at IS NOT NULL, r.locale, r.time_zone"
_RECIPIENTS: Final = f"SELECT {_BASE}, NULL, false FROM preferences_recipient r WHERE r.id = ANY(%(ids)s::bigint[])"  # noqa: S608
_WITH_ADDRESS: Final = f"""
SELECT {_BASE}, r.{{name}}_ct,
       r.{{name}}_bi IS NOT NULL
       AND EXISTS (SELECT FROM preferences_suppression s
                    WHERE s.channel = %(channel)s AND s.address_bi = r.{{name}}_bi AND s.lifted_at IS NULL)
  FROM preferences_recipient r WHERE r.id = ANY(%(ids)s::bigint[])
"""  # noqa: S608 - constants only
_RECIPIENTS_FOR: Final = {
    Channel.PUSH: _RECIPIENTS,
    Channel.SMS: _WITH_ADDRESS.format(name="phone"),
    Channel.EMAIL: _WITH_ADDRESS.format(name="email"),
}
# What people said, as numbers: wishes about the channel, about categories on it, and quiet hours.
_WORDS: Final = """
SELECT p.recipient_id, 0, p.is_enabled::int
  FROM preferences_channelpreference p WHERE p.recipient_id = ANY(%(ids)s::bigint[]) AND p.channel = %(channel)s
UNION ALL
SELECT c.recipient_id, 1, (c.category_id::int << 1) | c.is_enabled::int
  FROM preferences_categorypreference c WHERE c.recipient_id = ANY(%(ids)s::bigint[]) AND c.channel = %(channel)s
UNION ALL
SELECT q.recipient_id, 2, (q.days::int << 22) | (q.start_minute::int << 11) | q.end_minute
  FROM preferences_quiethours q WHERE q.recipient_id = ANY(%(ids)s::bigint[])
"""
_DEVICES: Final = """
SELECT d.recipient_id, d.id, d.platform, d.token_ct,
       EXISTS (SELECT FROM preferences_suppression s
                WHERE s.channel = %(channel)s AND s.address_bi = d.token_bi AND s.lifted_at IS NULL)
  FROM preferences_device d
 WHERE d.recipient_id = ANY(%(ids)s::bigint[]) AND d.deactivated_at IS NULL
"""


class _Words:
    """What some recipients said, by recipient id."""

    def __init__(self, rows: Sequence[tuple[int, int, int]], channel: Channel) -> None:
        self.channel_wishes: dict[int, int] = {}
        self.category_wishes: dict[int, dict[int, int]] = defaultdict(dict)
        self.windows: dict[int, list[Window]] = defaultdict(list)
        wishes = (WISH_NO << channel, WISH_YES << channel)
        for recipient_id, kind, number in rows:
            if kind == 0:
                self.channel_wishes[recipient_id] = wishes[number]
            elif kind == 1:
                self.category_wishes[recipient_id][number >> 1] = wishes[number & 1]
            else:
                self.windows[recipient_id].append(unpack_window(number))


def load_snapshots_by_id(recipient_ids: Sequence[int], channel: Channel) -> dict[int, RecipientSnapshot]:
    """``recipient id -> snapshot`` of what concerns ``channel``: the snapshots are good for no other one. Recipients
    that do not exist are left out, erased ones are not."""
    if not recipient_ids:
        return {}
    parameters = {"ids": pg_arrays.of_numbers(recipient_ids), "channel": channel.value}
    words = _Words(run_prepared(_WORDS, parameters), channel)
    devices: dict[int, list[DeviceSnapshot]] = {}
    suppressed: set[int] = set()
    if channel is Channel.PUSH:
        devices, suppressed = _select_devices(parameters)
    snapshots = {}
    for row in run_prepared(_RECIPIENTS_FOR[channel], parameters):
        recipient_id, user_id, version, is_opted_out, is_erased, locale, zone, address, is_suppressed = row
        own_devices = devices.get(recipient_id)
        windows = words.windows.get(recipient_id)
        if recipient_id in suppressed and not own_devices:
            is_suppressed = True
        snapshots[recipient_id] = RecipientSnapshot(
            recipient_id=recipient_id,
            user_id=user_id,
            version=version,
            is_opted_out=is_opted_out,
            is_erased=is_erased,
            channel_wishes=words.channel_wishes.get(recipient_id, 0),
            category_wishes=words.category_wishes.get(recipient_id) or {},
            quiet_hours=tuple(sorted(windows)) if windows else NO_WINDOWS,
            suppressed_channels=frozenset((channel,)) if is_suppressed else NO_CHANNELS,
            locale=locale,
            time_zone=zone,
            email_ct=address if channel is Channel.EMAIL else None,
            phone_ct=address if channel is Channel.SMS else None,
            devices=tuple(sorted(own_devices, key=_device_id)) if own_devices else (),
        )
    return snapshots


def _select_devices(parameters: dict[str, Any]) -> tuple[dict[int, list[DeviceSnapshot]], set[int]]:
    """The devices that may be used, and who has one that may not."""
    devices: dict[int, list[DeviceSnapshot]] = {}
    suppressed: set[int] = set()
    for recipient_id, device_id, platform, token_ct, is_suppressed in run_prepared(_DEVICES, parameters):
        if is_suppressed:
            suppressed.add(recipient_id)
        else:
            devices.setdefault(recipient_id, []).append(DeviceSnapshot(device_id, platform, token_ct))
    return devices, suppressed


def _device_id(device: DeviceSnapshot) -> int:
    return device.id
