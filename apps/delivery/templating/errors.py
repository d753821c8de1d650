"""What can be wrong with a template. No text here ever repeats a value from a context: it is kept and shown."""


class TemplateError(Exception):
    """A template that cannot be compiled, or not be rendered with this context. ``line`` counts from 1; ``variable``
    is the path of the value at fault, ``("order", "items", 2)``."""

    def __init__(self, detail: str, *, line: int | None = None, variable: tuple[str | int, ...] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.line = line
        self.variable = variable

    def __str__(self) -> str:
        return self.detail if self.line is None else f"line {self.line}: {self.detail}"
