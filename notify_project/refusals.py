"""Why a request is refused before anybody reads it."""

from enum import StrEnum

REFUSAL = "notify.refusal"
"""Key of a WSGI environment: the ``Refusal`` to answer with, or None."""


class Refusal(StrEnum):
    """What ``notify_project.front`` found wrong; ``notify_project.edge`` puts it into words."""

    BODY_TOO_LARGE = "body-too-large"
    BODY_TOO_SLOW = "body-too-slow"
    BODY_INCOMPLETE = "body-incomplete"
    LENGTH_REQUIRED = "length-required"
    HEADER_REPEATED = "header-repeated"
    OVERLOADED = "overloaded"
