"""``/metrics`` in Prometheus' text format."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from apps.problems import Problem
from notify_project.problems import render_problem
from notify_project.scrape import scrape_registry

_LOOPBACK = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
_FORWARDED = ("X-Forwarded-For", "Forwarded", "X-Real-IP")


@require_safe
def metrics_page(request: HttpRequest) -> HttpResponse:
    """All metrics. With METRICS_TOKEN set whoever shows it as bearer token may look; without, this machine only."""
    if settings.METRICS_TOKEN:
        shown = request.headers.get("Authorization", "")
        if not constant_time_compare(shown, f"Bearer {settings.METRICS_TOKEN}"):
            headers = {"WWW-Authenticate": 'Bearer realm="metrics"'}
            detail = "Show METRICS_TOKEN as 'Authorization: Bearer …'."
            return render_problem(Problem(401, "unauthenticated", detail, headers=headers))
    elif not _is_local(request):
        detail = "Metrics are for this machine only unless METRICS_TOKEN is set."
        return render_problem(Problem(403, "forbidden", detail))
    return HttpResponse(generate_latest(scrape_registry()), content_type=CONTENT_TYPE_LATEST)


def _is_local(request: HttpRequest) -> bool:
    # A proxy on this machine speaks for others: then the address says nothing.
    is_proxied = any(header in request.headers for header in _FORWARDED)
    return request.META.get("REMOTE_ADDR") in _LOOPBACK and not is_proxied
