"""Templates as tests make them."""

from typing import Any

import msgspec

from apps.clients.models import Client
from apps.delivery.templating import services
from apps.delivery.templating.drafts import VersionBody
from apps.delivery.templating.models import Template

VERSION: dict[str, Any] = {
    "variables": {
        "name": {"type": "string", "max_length": 40, "example": "Ann"},
        "total": {"type": "number", "default": 0},
        "link": {"type": "url", "example": "https://example.com/orders"},
        "items": {"type": "list", "default": []},
    },
    "texts": [
        {"channel": "push", "locale": "en", "title": "Thanks, {{ name }}", "body": "Your order is on its way."},
        {"channel": "push", "locale": "de", "title": "Danke, {{ name }}", "body": "Ihre Bestellung ist unterwegs."},
        {"channel": "sms", "locale": "en", "body": "{{ name }}, you paid EUR {{ total | number(2) }}."},
        {"channel": "sms", "locale": "de", "body": "{{ name }}, bezahlt: {{ total | number(2) }} EUR."},
        {
            "channel": "email",
            "locale": "en",
            "title": "Order of {{ name }}",
            "body": "Hello {{ name }}:{% for item in items %} {{ item.label }}{% endfor %} {{ link }}",
            "html": '<p>Hello {{ name }}: <a href="{{ link }}">{{ total | number(2) }}</a></p>',
        },
    ],
}


def make_template(
    client: Client | None, name: str = "order", version: dict[str, Any] | None = None, **changes: Any
) -> Template:
    """A template with one active version."""
    new = services.NewTemplate(client.pk if client else None, name, changes.pop("default_locale", "en"), **changes)
    return services.create_template(new, msgspec.convert(version or VERSION, VersionBody), by="test")
