"""Templates: named, versioned texts with declared variables, per channel and locale."""

from django.db import models
from django.db.models.functions import Now

from apps.channels import Channel


class Template(models.Model):
    """A client's own template, or with no client one that everybody may use; a client's own name wins.
    ``active_version`` is what a new notification gets that names no version."""

    id = models.BigAutoField(primary_key=True)
    client = models.ForeignKey("clients.Client", on_delete=models.PROTECT, null=True, blank=True, related_name="+")
    name = models.CharField(max_length=64)
    description = models.CharField(max_length=500, blank=True, default="")
    default_locale = models.CharField(max_length=35, default="en")
    active_version = models.IntegerField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now())
    archived_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "template"
        constraints = [
            models.UniqueConstraint(fields=["client", "name"], name="template_name_unique", nulls_distinct=False),
        ]

    def __str__(self) -> str:
        return self.name


class TemplateVersion(models.Model):
    """A version never changes once it exists. ``variables`` declares what a context holds."""

    id = models.BigAutoField(primary_key=True)
    template = models.ForeignKey(Template, on_delete=models.CASCADE, related_name="versions")
    number = models.IntegerField()
    variables = models.JSONField(default=dict)
    created_at = models.DateTimeField(db_default=Now())
    created_by = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        db_table = "template_version"
        constraints = [models.UniqueConstraint(fields=["template", "number"], name="template_version_unique")]

    def __str__(self) -> str:
        return f"{self.template_id} v{self.number}"


class TemplateText(models.Model):
    """The words of a version on one channel in one locale. ``html`` is for e-mail only."""

    id = models.BigAutoField(primary_key=True)
    version = models.ForeignKey(TemplateVersion, on_delete=models.CASCADE, related_name="texts")
    channel = models.SmallIntegerField(choices=[(int(c), c.label) for c in Channel])
    locale = models.CharField(max_length=35)
    title = models.TextField(blank=True, default="")
    body = models.TextField(blank=True, default="")
    html = models.TextField(blank=True, default="")

    class Meta:
        db_table = "template_text"
        constraints = [
            models.UniqueConstraint(fields=["version", "channel", "locale"], name="template_text_unique"),
        ]

    def __str__(self) -> str:
        return f"{self.version_id} {self.channel} {self.locale}"
