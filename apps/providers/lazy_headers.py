"""An answer's headers, read when somebody asks: of most answers the status and the body say it all."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping


class LazyHeaders(Mapping[str, str]):
    """Names are lower case. A subclass says how to read them."""

    __slots__ = ("_parsed",)

    def __init__(self) -> None:
        self._parsed: dict[str, str] | None = None

    @abstractmethod
    def _parse(self) -> dict[str, str]:
        """Asked once."""

    def _read(self) -> dict[str, str]:
        if self._parsed is None:
            self._parsed = self._parse()
        return self._parsed

    def __getitem__(self, name: str) -> str:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return repr(self._read())
