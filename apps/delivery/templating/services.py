"""Making templates and versions, and saying which version is active. A version, once made, is never changed."""

from dataclasses import dataclass

import msgspec
from django.db import IntegrityError, transaction
from django.db.models import Max
from django.utils import timezone

from apps.delivery.templating.drafts import VersionBody, find_faults, to_sources
from apps.delivery.templating.models import Template, TemplateText, TemplateVersion
from apps.preferences.profile import InvalidValue, check_locale
from apps.problems import Problem, invalid_field

VERSIONS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class NewTemplate:
    """A template to be made; ``client_id`` is ``None`` for one that all clients share. The default locale stays."""

    client_id: int | None
    name: str
    default_locale: str
    description: str = ""


def create_template(new: NewTemplate, draft: VersionBody, *, by: str, is_active: bool = True) -> Template:
    """The template with its first version; raises ``Problem``: 422 for a faulty version, 409 if the name is taken."""
    locale = _checked_locale(new.default_locale)
    _check(draft, locale)
    try:
        with transaction.atomic():
            template = Template.objects.create(
                client_id=new.client_id, name=new.name, description=new.description, default_locale=locale
            )
            version = _write(template, 1, draft, by)
            if is_active:
                template.active_version = version.number
                template.save(update_fields=["active_version"])
    except IntegrityError:
        raise Problem(409, "template-exists", "there is a template of this name; make a new version of it") from None
    return template


def add_version(template: Template, draft: VersionBody, *, by: str, is_active: bool = False) -> TemplateVersion:
    """The next version; raises ``Problem`` 422 for a faulty one."""
    _check(draft, template.default_locale)
    with transaction.atomic():
        locked = Template.objects.select_for_update().get(pk=template.pk)
        number = (locked.versions.aggregate(last=Max("number"))["last"] or 0) + 1
        if number > VERSIONS_MAX:
            raise invalid_field("", f"a template has at most {VERSIONS_MAX} versions; make a new template")
        version = _write(locked, number, draft, by)
        if is_active:
            locked.active_version = number
            locked.save(update_fields=["active_version"])
    return version


def activate(template: Template, number: int | None) -> None:
    """From now on ``number`` is what the name means; ``None``: nothing is. What was accepted keeps its version. Raises
    ``Problem`` 422 for a version there is not."""
    if number is not None and not template.versions.filter(number=number).exists():
        raise invalid_field("/version", f"there is no version {number}", "unknown_version")
    Template.objects.filter(pk=template.pk).update(active_version=number)


def set_archived(template: Template, is_archived: bool) -> None:
    """An archived template can be named by no new notification. What was accepted is sent."""
    Template.objects.filter(pk=template.pk).update(archived_at=timezone.now() if is_archived else None)


def _check(draft: VersionBody, default_locale: str) -> None:
    faults = find_faults(draft, default_locale)
    if faults:
        raise Problem(422, "invalid-request", faults[0].detail, errors=faults)


def _checked_locale(locale: str) -> str:
    try:
        return check_locale(locale)
    except InvalidValue as error:
        raise invalid_field("/default_locale", str(error)) from None


def _write(template: Template, number: int, draft: VersionBody, by: str) -> TemplateVersion:
    version = TemplateVersion.objects.create(
        template=template, number=number, variables=msgspec.to_builtins(draft.variables), created_by=by
    )
    TemplateText.objects.bulk_create(
        TemplateText(
            version=version,
            channel=source.channel,
            locale=source.locale,
            title=source.title,
            body=source.body,
            html=source.html,
        )
        for source in to_sources(draft.texts)
    )
    return version
