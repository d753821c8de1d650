"""How large and how slow a template may be. With all of them a render ends after some ten milliseconds at most."""

from typing import Final

TITLE_SOURCE_MAX: Final = 2_000  # characters
BODY_SOURCE_MAX: Final = 100_000
HTML_SOURCE_MAX: Final = 500_000

READINGS_MAX: Final = 100_000  # of one HTML text: an element makes some four of them, an attribute some five more

TAG_MAX: Final = 1_000  # characters between the braces
TAGS_MAX: Final = 2_000  # of one text
TERMS_MAX: Final = 60  # words and signs of one tag
FILTERS_MAX: Final = 8  # one after another
DEPTH_MAX: Final = 10  # blocks within blocks
LOOP_DEPTH_MAX: Final = 3
PATH_MAX: Final = 8

STEPS_MAX: Final = 20_000  # of one render: a step is a tag executed, or 64 characters a filter has looked at
ITEMS_MAX: Final = 1_000  # of one list
VALUE_MAX: Final = 100_000  # characters a filter may make

TITLE_MAX: Final = 1_000  # characters, as without a template
BODY_MAX: Final = 100_000  # bytes
HTML_MAX: Final = 500_000

VARIABLES_MAX: Final = 100
TEXTS_MAX: Final = 200
CONTEXT_MAX: Final = 65_536  # bytes as JSON
CONTEXT_DEPTH_MAX: Final = 8
TEXT_LENGTH: Final = 10_000  # of a variable that names no max_length
URL_LENGTH: Final = 2_048
