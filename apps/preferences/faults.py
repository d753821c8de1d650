"""What is wrong with an entry of a bulk request or an import file, field by field."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

TEXT_MAX_LENGTH: Final = 4096


class Fault(NamedTuple):
    """What is wrong with one field. ``field`` is its path, such as ``devices/0/token``; ``detail`` says how to mend
    it and never repeats the value."""

    field: str
    detail: str
    code: str = "invalid"


class InvalidEntry(ValueError):
    """An entry that cannot be stored, with everything that is wrong with it."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(f"{fault.field}: {fault.detail}" for fault in faults))
        self.faults = faults


def unknown_field(name: object, known: tuple[str, ...], within: str = "") -> Fault:
    """The fault of a name nobody knows. A name that is no plain word is not repeated: it may be anything."""
    is_plain = isinstance(name, str) and name.isascii() and name.isidentifier() and len(name) <= 40
    shown = str(name) if is_plain else "?"
    return Fault(f"{within}{shown}", f"There is no such field; known are {', '.join(known)}.", "unknown")


def read_text(
    faults: list[Fault],
    values: Mapping[str, Any],
    name: str,
    check: Callable[[str], str],
    max_length: int = TEXT_MAX_LENGTH,
    within: str = "",
) -> str | None:
    """What ``check`` makes of the string ``values[name]``; ``None`` after a fault was added."""
    value = values.get(name)
    if isinstance(value, str):
        if len(value) <= max_length:
            try:
                return check(value)
            except ValueError as error:
                faults.append(Fault(within + name, str(error)))
                return None
        faults.append(Fault(within + name, f"Enter at most {max_length:,} characters.", "max_length"))
    elif name not in values:
        faults.append(Fault(within + name, "This field is required.", "required"))
    else:
        faults.append(Fault(within + name, "Enter a string."))
    return None
