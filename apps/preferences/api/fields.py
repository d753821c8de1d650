"""Serializer fields and a base that take JSON as it is: no number for a text, no "yes" for true, no unknown field."""

from collections.abc import Callable, Mapping
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

Errors = dict[str, list[ErrorDetail]]


def unknown_field_errors(names: list[str], known: list[str]) -> Errors:
    """One error for each of ``names``, under its own pointer."""
    return {name: [ErrorDetail(f"There is no such field; known are {', '.join(known)}.", "unknown")] for name in names}


class StrictSerializer(serializers.Serializer[Any]):
    """Refuses fields it does not know, each under its own pointer, together with what else is wrong."""

    def to_internal_value(self, data: Any) -> Any:
        known = [name for name, field in self.fields.items() if not field.read_only]
        unknown = [name for name in data if name not in known] if isinstance(data, Mapping) else []
        errors = unknown_field_errors(unknown, known)
        try:
            value = super().to_internal_value(data)
        except serializers.ValidationError as error:
            if not errors or not isinstance(error.detail, dict):
                raise
            raise serializers.ValidationError({**error.detail, **errors}) from None
        if errors:
            raise serializers.ValidationError(errors)
        return value


class TextField(serializers.CharField):
    """A JSON string, stored as ``check`` returns it; ``check`` raises ``ValueError`` with a text for people."""

    default_error_messages = {"invalid": "Enter a string."}

    def __init__(self, *, check: Callable[[str], str], **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, **kwargs)
        self.check = check

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return data

    def run_validation(self, data: Any = serializers.empty) -> Any:
        value = super().run_validation(data)
        if not isinstance(value, str):
            return value
        try:
            return self.check(value)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None


class FlagField(serializers.BooleanField):
    """``true`` or ``false``, nothing that looks like it."""

    default_error_messages = {"invalid": "Enter true or false."}

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid")
        return data


@extend_schema_field({"type": "object", "additionalProperties": True})
class AttributesField(serializers.JSONField):
    """A JSON object within the limits of ``profile.check_attributes``."""

    def __init__(self, *, check: Callable[[object], dict[str, Any]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check = check

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        try:
            return self.check(data)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None
