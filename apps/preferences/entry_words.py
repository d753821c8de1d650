"""The ``preferences`` of an entry, in the shape of ``PUT /v1/users/{user_id}/preferences``. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from apps.channels import CHANNEL_LABELS, Channel
from apps.preferences.faults import Fault, read_text, unknown_field
from apps.preferences.profile import TIME_ZONE_MAX_LENGTH, InvalidValue, check_time_zone
from apps.preferences.quiet_hours import DAYS, Window, check_windows, days_mask, parse_minute

FIELDS: Final = ("opted_out", "time_zone", "channels", "categories", "quiet_hours")
IGNORED_FIELDS: Final = ("effective",)  # what GET shows besides
WINDOW_FIELDS: Final = ("days", "start", "end")


@dataclass(slots=True, eq=False)
class Words:
    """What a recipient says. ``None`` takes a word about a channel, or about a channel of a category, back; where a
    whole field is ``None`` or empty nothing is said. Categories are numbers."""

    is_opted_out: bool | None = None
    time_zone: str | None = None
    channels: dict[Channel, bool | None] = field(default_factory=dict)
    categories: dict[tuple[int, Channel], bool | None] = field(default_factory=dict)
    quiet_hours: tuple[Window, ...] | None = None

    @property
    def has_details(self) -> bool:
        """Whether anything is said beyond the global opt-out."""
        return bool(self.channels or self.categories or self.quiet_hours is not None)


def read_words(faults: list[Fault], value: object, category_ids: Mapping[str, int]) -> Words:
    """The words in ``value``; what is wrong is added to ``faults``."""
    words = Words()
    if not isinstance(value, dict):
        faults.append(Fault("preferences", 'Enter an object such as {"opted_out": false}.'))
        return words
    faults += [unknown_field(name, FIELDS, "preferences/") for name in value if name not in (*FIELDS, *IGNORED_FIELDS)]
    if "opted_out" in value:
        words.is_opted_out = _read_flag(faults, value["opted_out"], "preferences/opted_out")
    if "time_zone" in value:
        words.time_zone = read_text(faults, value, "time_zone", check_time_zone, TIME_ZONE_MAX_LENGTH, "preferences/")
    words.channels = _read_channels(faults, value.get("channels", {}), "preferences/channels")
    _read_categories(faults, words, value.get("categories", {}), category_ids)
    if "quiet_hours" in value:
        quiet_hours = value["quiet_hours"]
        words.quiet_hours = () if quiet_hours is None else _read_quiet_hours(faults, quiet_hours)
    return words


def _read_flag(faults: list[Fault], value: object, path: str) -> bool | None:
    if isinstance(value, bool):
        return value
    faults.append(Fault(path, "Enter true or false."))
    return None


def _read_channels(faults: list[Fault], value: object, path: str) -> dict[Channel, bool | None]:
    if not isinstance(value, dict):
        faults.append(Fault(path, 'Enter an object such as {"sms": false}.'))
        return {}
    wishes: dict[Channel, bool | None] = {}
    for label, wish in value.items():
        if label not in CHANNEL_LABELS:
            faults.append(unknown_field(label, CHANNEL_LABELS, f"{path}/"))
        elif wish is None or isinstance(wish, bool):
            wishes[Channel.from_label(label)] = wish
        else:
            faults.append(Fault(f"{path}/{label}", "Enter true or false, or null to take the word back."))
    return wishes


def _read_categories(faults: list[Fault], words: Words, value: object, category_ids: Mapping[str, int]) -> None:
    path = "preferences/categories"
    if not isinstance(value, dict):
        faults.append(Fault(path, 'Enter an object such as {"marketing": {"email": false}}.'))
        return
    for key, wishes in value.items():
        category_id = category_ids.get(key)
        if category_id is None:
            faults.append(Fault(f"{path}/?", "There is no such category.", "unknown"))
            continue
        for channel, wish in _read_channels(faults, wishes, f"{path}/{key}").items():
            words.categories[category_id, channel] = wish


def _read_quiet_hours(faults: list[Fault], value: object) -> tuple[Window, ...]:
    path = "preferences/quiet_hours"
    if not isinstance(value, list):
        faults.append(Fault(path, 'Enter a list such as [{"days": ["mon"], "start": "22:00", "end": "07:00"}].'))
        return ()
    before = len(faults)
    windows = [_read_window(faults, item, f"{path}/{index}") for index, item in enumerate(value[:100])]
    if len(faults) > before:
        return ()
    try:
        return check_windows(windows)
    except InvalidValue as error:
        faults.append(Fault(path, str(error)))
        return ()


def _read_window(faults: list[Fault], item: object, path: str) -> Window:
    if not isinstance(item, dict):
        faults.append(Fault(path, 'Enter an object such as {"days": ["mon"], "start": "22:00", "end": "07:00"}.'))
        return Window(0, 0, 0)
    faults += [unknown_field(name, WINDOW_FIELDS, f"{path}/") for name in item if name not in WINDOW_FIELDS]
    start, end = (_read_minute(faults, item, name, path) for name in ("start", "end"))
    days = item.get("days", list(DAYS))
    if not isinstance(days, list) or not days or not all(isinstance(day, str) for day in days):
        detail = 'Enter a list such as ["mon", "tue"], or leave it out for every day.'
        faults.append(Fault(f"{path}/days", detail))
        return Window(0, 0, 0)
    try:
        return Window(days_mask(days), start, end)
    except InvalidValue as error:
        faults.append(Fault(f"{path}/days", str(error)))
        return Window(0, 0, 0)


def _read_minute(faults: list[Fault], item: Mapping[str, Any], name: str, path: str) -> int:
    text = read_text(faults, item, name, lambda value: str(parse_minute(value)), 5, f"{path}/")
    return 0 if text is None else int(text)
