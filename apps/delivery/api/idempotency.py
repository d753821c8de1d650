"""The header that tells a repeated request from a new one."""

import re

from django.conf import settings
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request

from apps.delivery.api.requests import IDEMPOTENCY_KEY_MAX
from apps.problems import Problem

IDEMPOTENCY_HEADER = "X-Idempotency-Key"
_META_KEY = "HTTP_X_IDEMPOTENCY_KEY"
IDEMPOTENCY_KEY_PATTERN = "^[\\x21-\\x7e]+$"
_is_well_formed = re.compile(IDEMPOTENCY_KEY_PATTERN).fullmatch


def idempotency_parameter(thing: str) -> OpenApiParameter:
    """The header in the OpenAPI document of a call that makes a ``thing``."""
    return OpenApiParameter(
        IDEMPOTENCY_HEADER,
        {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_MAX, "pattern": IDEMPOTENCY_KEY_PATTERN},
        OpenApiParameter.HEADER,
        required=True,
        description=f"Yours to choose, unique per {thing}, e.g. a UUID. Repeating a request with the same key and body "
        "answers what was answered before, and sends nothing twice. Kept for "
        f"{settings.IDEMPOTENCY_RETENTION_DAYS} days.",
    )


def read_idempotency_key(request: Request, thing: str) -> str:
    """The key of a request that makes a ``thing``; raises a 400 ``Problem`` if it is missing or malformed."""
    key: str | None = request.META.get(_META_KEY)
    if not key:
        raise Problem(
            400,
            "idempotency-key-missing",
            f"the header {IDEMPOTENCY_HEADER} is required; choose a key of your own per {thing}, e.g. a UUID",
        )
    if len(key) > IDEMPOTENCY_KEY_MAX or not _is_well_formed(key):
        raise Problem(
            400,
            "idempotency-key-invalid",
            f"the header {IDEMPOTENCY_HEADER} takes 1 to {IDEMPOTENCY_KEY_MAX} visible ASCII characters",
        )
    return key
