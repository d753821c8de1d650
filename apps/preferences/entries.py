"""One recipient of a bulk request or an import file, read from JSON and checked. Pure, and quick: an import reads
tens of thousands a second.

The shape: ``{user_id, email, phone, locale, time_zone, attributes, preferences, devices: [{token, platform, app_id}]}``
with ``preferences`` as in ``PUT /v1/users/{user_id}/preferences``; all but ``user_id`` may be left out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

from apps.channels import Channel
from apps.preferences import addresses, profile
from apps.preferences.devices import MAX_ACTIVE_DEVICES
from apps.preferences.entry_words import Words, read_words
from apps.preferences.faults import Fault, InvalidEntry, read_text, unknown_field
from apps.preferences.models import Platform

FIELDS: Final = (
    "user_id", "email", "phone", "locale", "time_zone", "attributes", "preferences", "devices",
)  # fmt: skip
DEVICE_FIELDS: Final = ("token", "platform", "app_id")
PLATFORMS: Final = tuple(Platform.values)
_BLANK: Final[Mapping[str, Any]] = {
    "email": None, "phone": None, "locale": "", "time_zone": "", "attributes": {},
}  # fmt: skip
# Channel, check and greatest length of each contact point, as in the single call.
_CONTACTS: Final[dict[str, tuple[Channel, Callable[[str], str], int]]] = {
    "email": (Channel.EMAIL, addresses.normalise_email, 320),
    "phone": (Channel.SMS, addresses.normalise_phone, 40),
}
_check_locale: Final = lru_cache(maxsize=4096)(profile.check_locale)


class DeviceEntry(NamedTuple):
    """A push token to register."""

    token: str
    platform: str
    app_id: str


@dataclass(slots=True)
class Entry:
    """A recipient as it is to be. What a mapping does not hold stays as it is; an address of ``None`` is removed."""

    user_id: str
    contacts: dict[Channel, str | None] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    words: Words | None = None
    devices: tuple[DeviceEntry, ...] = ()


def read_entry(item: object, *, is_whole: bool, category_ids: Mapping[str, int]) -> Entry:
    """The entry in ``item`` (decoded JSON). ``is_whole``: what the profile leaves out is removed, as with PUT;
    otherwise it stays. Preferences and devices left out stay in any case. ``category_ids`` are all categories,
    key to number. Raises ``InvalidEntry``."""
    if not isinstance(item, dict):
        raise InvalidEntry(Fault("", 'Enter an object such as {"user_id": "user-1", "email": "ann@example.com"}.'))
    faults = [unknown_field(name, FIELDS) for name in item if name not in FIELDS]
    entry = Entry(read_text(faults, item, "user_id", profile.check_user_id) or "")
    _read_profile(faults, entry, {**_BLANK, **item} if is_whole else item)
    if "preferences" in item:
        entry.words = read_words(faults, item["preferences"], category_ids)
        _adopt_time_zone(faults, entry, item)
    if "devices" in item:
        entry.devices = _read_devices(faults, item["devices"])
    if faults:
        raise InvalidEntry(*faults)
    return entry


def _read_profile(faults: list[Fault], entry: Entry, values: Mapping[str, Any]) -> None:
    for name, (channel, check, max_length) in _CONTACTS.items():
        if name in values:
            is_removed = values[name] is None
            entry.contacts[channel] = None if is_removed else read_text(faults, values, name, check, max_length)
    if "locale" in values:
        entry.plain["locale"] = read_text(faults, values, "locale", _check_locale, profile.LOCALE_MAX_LENGTH)
    if "time_zone" in values:
        entry.plain["time_zone"] = read_text(
            faults, values, "time_zone", profile.check_time_zone, profile.TIME_ZONE_MAX_LENGTH
        )
    if "attributes" in values:
        entry.plain["attributes"] = _read_attributes(faults, values["attributes"])


def _adopt_time_zone(faults: list[Fault], entry: Entry, item: Mapping[str, Any]) -> None:
    # It is one and the same: the quiet hours' zone is the profile's.
    zone = entry.words.time_zone if entry.words else None
    if zone is None:
        return
    if item.get("time_zone", zone) != zone:
        faults.append(Fault("preferences/time_zone", "The recipient has another time_zone; give it once."))
    entry.plain["time_zone"] = zone


def _read_attributes(faults: list[Fault], value: object) -> dict[str, Any]:
    if value == {}:
        return {}
    try:
        return profile.check_attributes(value)
    except profile.InvalidValue as error:
        faults.append(Fault("attributes", str(error)))
        return {}


def _read_devices(faults: list[Fault], value: object) -> tuple[DeviceEntry, ...]:
    if not isinstance(value, list) or len(value) > MAX_ACTIVE_DEVICES:
        faults.append(Fault("devices", f"Enter a list of at most {MAX_ACTIVE_DEVICES} devices."))
        return ()
    return tuple(_read_device(faults, item, f"devices/{index}") for index, item in enumerate(value))


def _read_device(faults: list[Fault], item: object, path: str) -> DeviceEntry:
    if not isinstance(item, dict):
        faults.append(Fault(path, 'Enter an object such as {"token": "…", "platform": "ios"}.'))
        return DeviceEntry("", "", "")
    faults += [unknown_field(name, DEVICE_FIELDS, f"{path}/") for name in item if name not in DEVICE_FIELDS]
    values = {"app_id": "", **item}
    token = read_text(faults, values, "token", addresses.normalise_token, addresses.TOKEN_MAX_LENGTH, f"{path}/")
    platform = read_text(faults, values, "platform", _check_platform, within=f"{path}/")
    app_id = read_text(faults, values, "app_id", profile.check_app_id, within=f"{path}/")
    return DeviceEntry(token or "", platform or "", app_id or "")


def _check_platform(value: str) -> str:
    if value not in PLATFORMS:
        raise profile.InvalidValue(f"Enter one of {', '.join(PLATFORMS)}.")
    return value
