"""Reads of templates."""

from collections.abc import Sequence

from django.db.models import Max, Q, QuerySet

from apps.delivery.templating.models import Template, TemplateVersion
from apps.problems import Problem


def select_templates(client_id: int, *, after: str | None, limit: int) -> list[Template]:
    """Up to ``limit`` of a client's own and the shared templates by name, from behind ``after``. A shared one that is
    hidden by an own of the same name is left out. Each has ``latest_version``."""
    rows = _visible(client_id).annotate(latest_version=Max("versions__number")).order_by("name", "client_id")
    rows = rows.exclude(client=None, name__in=Template.objects.filter(client_id=client_id).values("name"))
    if after is not None:
        rows = rows.filter(name__gt=after)
    return list(rows[:limit])


def find_template(client_id: int, name: str) -> Template:
    """What ``name`` means to a client, its own or the shared one; raises ``Problem`` 404."""
    template = _visible(client_id).filter(name=name).order_by("client_id").first()  # nulls, the shared, come last
    if template is None:
        raise Problem(404, "not-found", "there is no template of this name; GET /v1/templates lists them")
    return template


def find_own_template(client_id: int, name: str) -> Template:
    """A client's own template, to change; raises ``Problem`` 404, or 403 for a shared one."""
    template = find_template(client_id, name)
    if template.client_id is None:
        raise Problem(403, "forbidden", "this template is shared by all clients and is changed in the admin")
    return template


def select_versions(template: Template) -> Sequence[TemplateVersion]:
    """All versions, newest first, without their words."""
    return list(template.versions.order_by("-number"))


def find_version(template: Template, number: int | None) -> TemplateVersion | None:
    """The version of this number; without a number the active one, or the newest where none is active."""
    versions = template.versions.prefetch_related("texts")
    if number is not None:
        return versions.filter(number=number).first()
    active = None if template.active_version is None else versions.filter(number=template.active_version).first()
    return active or versions.order_by("-number").first()


def _visible(client_id: int) -> "QuerySet[Template]":
    return Template.objects.filter(Q(client_id=client_id) | Q(client=None))
