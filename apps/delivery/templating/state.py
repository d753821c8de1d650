"""What a render has at hand, and how much it may still do."""

from collections.abc import Collection, Mapping
from datetime import date
from typing import Any, Final

from apps.delivery.templating.errors import TemplateError
from apps.delivery.templating.limits import STEPS_MAX

Path = tuple[str | int, ...]


class Missing:
    """The value of a path that leads nowhere, and the path, so that an error can name it."""

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return ".".join(map(str, self.path))


class State:
    """One render: the values by name, the output so far, and the steps and bytes that are left. ``items`` says for a
    loop's variable where its value came from. What is missing below one of ``samples`` stands as its own name."""

    __slots__ = ("items", "output", "room", "samples", "scope", "steps")

    def __init__(self, scope: Mapping[str, Any], room: int, samples: Collection[str] = ()) -> None:
        self.scope = dict(scope)
        self.output: list[str] = []
        self.steps = STEPS_MAX
        self.room = room
        self.items: dict[str, Path] = {}
        self.samples = samples

    def spend(self, steps: int) -> None:
        """Takes steps; raises ``TemplateError`` if there are not so many."""
        self.steps -= steps
        if self.steps < 0:
            raise TemplateError("it takes too many steps to render; loop over less")

    def write(self, text: str) -> None:
        """Adds to the output; raises ``TemplateError`` if it becomes too large."""
        self.room -= len(text) if text.isascii() else len(text.encode())
        if self.room < 0:
            raise TemplateError("what comes out is too large")
        self.output.append(text)

    def accepts(self, value: Missing) -> bool:
        """Whether a missing value may stand as its own name; raises ``TemplateError`` if not."""
        if value.path[0] not in self.samples:
            raise TemplateError(f"{value} is missing", variable=value.path)
        return True

    def full_path(self, path: Path) -> Path:
        """``path`` from the context's root, though it may begin at a loop's variable."""
        root = path[0]
        return path if root not in self.items else (*self.items[str(root)], *path[1:])


SCALARS: Final = (str, int, float, date)  # bool is an int and datetime a date
