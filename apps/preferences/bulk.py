"""Up to a thousand recipients in one call, each with a result of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from apps.preferences.bulk_devices import Registration, register_devices
from apps.preferences.bulk_rows import Outcome, store_entries
from apps.preferences.entries import Entry, read_entry
from apps.preferences.faults import Fault, InvalidEntry
from apps.preferences.models import Category

MAX_RECIPIENTS: Final = 1_000
MAX_DEVICES: Final = 2_000  # in all: each is locked by itself, so many take their time


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one item: stored as ``outcome`` says, or refused for ``faults``. ``user_id`` is what the item
    named, if that can be an id."""

    user_id: str | None
    outcome: Outcome | None
    faults: tuple[Fault, ...] = ()


def upsert_recipients(items: Sequence[object]) -> list[ItemResult]:
    """Do for each item (decoded JSON in the shape of ``entries``) what PUT does: the profile becomes exactly this,
    preferences and devices that are given are added to what there is. One result for each, in order; a wrong item
    does not stop the others. The same call again changes nothing.

    Profiles and preferences are one transaction, devices follow in others: a call that fails in between (the
    database went away) is simply made again."""
    category_ids = dict(Category.objects.values_list("key", "id"))
    results: list[ItemResult | None] = [None] * len(items)
    places: dict[str, int] = {}
    entries: list[Entry] = []
    for place, item in enumerate(items):
        try:
            entry = read_entry(item, is_whole=True, category_ids=category_ids)
        except InvalidEntry as error:
            results[place] = ItemResult(_name_of(item, error), None, error.faults)
            continue
        if entry.user_id in places:
            fault = Fault("user_id", f"The user id stands in item {places[entry.user_id]} already.", "duplicate")
            results[place] = ItemResult(entry.user_id, None, (fault,))
            continue
        places[entry.user_id] = place
        entries.append(entry)
    outcomes = store_entries(entries) if entries else []
    register_devices(Registration(entry.user_id, device) for entry in entries for device in entry.devices)
    for entry, outcome in zip(entries, outcomes, strict=True):
        results[places[entry.user_id]] = ItemResult(entry.user_id, outcome)
    return [result for result in results if result is not None]


def _name_of(item: object, error: InvalidEntry) -> str | None:
    if not isinstance(item, dict) or any(fault.field == "user_id" for fault in error.faults):
        return None
    name = item.get("user_id")
    return name if isinstance(name, str) else None
