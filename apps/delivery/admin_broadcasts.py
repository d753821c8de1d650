"""Broadcasts in the admin: a list, and for each a page that shows live how far it is and steers it."""

from collections.abc import Callable, Mapping
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.channels import Channel
from apps.delivery.admin_base import ReadOnlyAdmin
from apps.delivery.broadcasts import services
from apps.delivery.broadcasts.models import Broadcast, State
from apps.delivery.broadcasts.progress import Progress, progress
from apps.delivery.statuses import STATUS_LABELS
from apps.problems import Problem

_GOING = (State.SCHEDULED, State.PLANNING, State.CANARY, State.RUNNING)
_STOPPED = (State.PAUSED, State.HALTED)
# In which states a verb is offered, what it does, and the question before it is done.
_VERBS: Mapping[str, tuple[tuple[State, ...], Callable[..., object], str]] = {
    "pause": (_GOING, services.pause, "Nothing more leaves until it is resumed."),
    "resume": (_STOPPED, services.resume, "It goes on where it was."),
    "cancel": ((*_GOING, *_STOPPED), services.cancel, "Nothing more leaves, for good: this cannot be undone."),
    "retry-failed": (
        (State.COMPLETED,),
        services.retry_failed,
        "What failed is sent once more, but for addresses that turned out not to exist.",
    ),
}
_STEERING = "delivery.change_broadcast"


@admin.register(Broadcast)
class BroadcastAdmin(ReadOnlyAdmin):
    list_display = ("title", "state_badge", "client", "channel_names", "people", "created_at", "finished_at")
    list_filter = ("state", ("client", admin.RelatedOnlyFieldListFilter))
    search_fields = ("id", "name", "trace_id__exact")
    search_help_text = "A broadcast's id, a word of its name, or exactly a trace id"
    ordering = ("-id",)
    list_per_page = 50
    fields = (
        "id", "client", "type", "category_key", "channel_names", "audience_text", "created_at", "send_at", "started_at",
        "finished_at", "expires_at", "pace", "window", "canary_rule", "trace_id", "content",
    )  # fmt: skip
    readonly_fields = fields
    change_form_template = "admin/delivery/broadcast/live.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Broadcast]:
        return super().get_queryset(request).select_related("client").defer("content_ct")

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site
        return [
            path("<uuid:pk>/progress/", site.admin_view(self.progress_view), name="delivery_broadcast_progress"),
            path("<uuid:pk>/steer/<slug:verb>/", site.admin_view(self.steer_view), name="delivery_broadcast_steer"),
            *super().get_urls(),
        ]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        broadcast = self.get_object(request, unquote(object_id))
        live = self._live(request, broadcast) if broadcast is not None else {}
        extra = {**(extra_context or {}), "live": live, "steering": [(verb, _words(verb)) for verb in _VERBS]}
        return super().change_view(request, object_id, form_url, extra)

    def progress_view(self, request: HttpRequest, pk: Any) -> HttpResponse:
        """The figures of the page as JSON, which its script asks for again and again."""
        return JsonResponse(self._live(request, self._find(request, pk)))

    def steer_view(self, request: HttpRequest, pk: Any, verb: str) -> HttpResponse:
        """GET and POST ask, POST with ``confirmed`` does it and keeps who did."""
        broadcast = self._find(request, pk)
        if verb not in _VERBS:
            raise Http404
        if not request.user.has_perm(_STEERING):
            raise PermissionDenied
        _, act, consequence = _VERBS[verb]
        page = reverse("admin:delivery_broadcast_change", args=[broadcast.pk])
        if request.method != "POST" or "confirmed" not in request.POST:
            context = {
                **self.admin_site.each_context(request),
                "title": f"{_words(verb)}: {broadcast}",
                "opts": self.opts,
                "broadcast": broadcast,
                "verb": _words(verb),
                "consequence": consequence,
                "page": page,
            }
            return TemplateResponse(request, "admin/delivery/broadcast/confirm.html", context)
        try:
            result = act(broadcast.pk)
        except Problem as problem:
            self.message_user(request, f"Not done: {problem.detail}.", messages.ERROR)
            return HttpResponseRedirect(page)
        note = f"{result} deliveries are tried again." if isinstance(result, int) else f"{_words(verb)}: done."
        self.log_change(request, broadcast, note)
        self.message_user(request, note, messages.SUCCESS)
        return HttpResponseRedirect(page)

    def _find(self, request: HttpRequest, pk: Any) -> Broadcast:
        broadcast = self.get_object(request, str(pk))
        if broadcast is None:
            raise Http404
        if not self.has_view_permission(request, broadcast):
            raise PermissionDenied
        assert isinstance(broadcast, Broadcast)
        return broadcast

    def _live(self, request: HttpRequest, broadcast: Broadcast) -> dict[str, Any]:
        figures = describe_live(broadcast, progress(broadcast))
        if not request.user.has_perm(_STEERING):
            figures["verbs"] = []
        return figures

    @admin.display(description="broadcast", ordering="name")
    def title(self, row: Broadcast) -> str:
        return str(row)

    @admin.display(description="state", ordering="state")
    def state_badge(self, row: Broadcast) -> SafeString:
        name = State(row.state).name.lower()
        return format_html('<span class="bc-state bc-state-{}">{}</span>', name, name)

    @admin.display(description="channels")
    def channel_names(self, row: Broadcast) -> str:
        return ", ".join(Channel(number).label for number in row.channels)

    @admin.display(description="people × channels", ordering="recipients")
    def people(self, row: Broadcast) -> str:
        return f"{row.recipients:,}" + ("" if row.is_planned else " so far")

    @admin.display(description="category")
    def category_key(self, row: Broadcast) -> str:
        return row.category or "(default)"

    @admin.display(description="audience")
    def audience_text(self, row: Broadcast) -> str:
        return describe_audience(row.audience)

    @admin.display(description="rate")
    def pace(self, row: Broadcast) -> str:
        return f"at most {row.rate_per_s:,} recipients a second" if row.rate_per_s else "as fast as it can"

    @admin.display(description="send window")
    def window(self, row: Broadcast) -> str:
        window = row.send_window
        return f"{window['start']} to {window['end']}, {window['time_zone']}" if window else "at any hour"

    @admin.display(description="canary")
    def canary_rule(self, row: Broadcast) -> str:
        first = f"the first {row.canary_share:.2%} of the people" if row.canary_share else "none"
        return first if row.max_error_rate is None else f"{first}; halts beyond {row.max_error_rate:.2%} failed"

    @admin.display
    def content(self, row: Broadcast) -> str:
        return "•••••• (encrypted; not shown)"

    class Media:
        css = {"all": ("delivery/broadcast.css",)}
        js = ("delivery/broadcast.js",)


def describe_live(broadcast: Broadcast, figures: Progress) -> dict[str, Any]:
    """What the live page shows, for its template and for its script. ``parts`` are the stacked bar's, in percent."""
    waiting = max(0, figures.recipients - figures.done)
    counts = {status.label: count for status, count in figures.counts.items()}
    total = sum(counts.values()) + waiting
    parts, start = [], 0.0
    for label in STATUS_LABELS:
        count = counts.get(label, 0)
        width = 100 * count / total if total else 0.0
        parts.append({"status": label, "count": count, "start": round(start, 3), "width": round(width, 3)})
        start += width
    return {
        "state": figures.state.name.lower(),
        "reason": broadcast.state_reason,
        "is_planned": figures.is_planned,
        "recipients": figures.recipients,
        "done": figures.done,
        "waiting": waiting,
        "percent": _percent(figures.done, figures.recipients),
        "rate_per_s": round(figures.rate_per_s, 1),
        "eta": figures.eta.isoformat() if figures.eta else None,
        "error_percent": None if figures.error_rate is None else round(100 * figures.error_rate, 2),
        "canary": figures.canary,
        "parts": parts,
        "as_of": figures.as_of.isoformat(),
        "is_over": broadcast.finished_at is not None,
        "verbs": [verb for verb in _VERBS if _is_offered(verb, figures)],
    }


def _is_offered(verb: str, figures: Progress) -> bool:
    states, _, _ = _VERBS[verb]
    has_failed = any(figures.counts.get(status) for status in services.REVIVABLE)
    return figures.state in states and (verb != "retry-failed" or has_failed)


def describe_audience(audience: Mapping[str, Any]) -> str:
    """The audience in a line."""
    if "everybody" in audience:
        return "everybody"
    if "user_ids" in audience:
        return f"a list of {len(audience['user_ids']):,} user ids"
    return f"the upload {audience['upload_id']}" if "upload_id" in audience else str(audience)


def _percent(part: int, whole: int) -> float:
    """In tenths, and 100 only when it is all."""
    return int(1000 * part / whole) / 10 if whole else 0.0


def _words(verb: str) -> str:
    return verb.replace("-", " ").capitalize()
