"""Addresses for the tests of what stands around every view."""

from django.http import HttpRequest, HttpResponse
from django.urls import path

from apps import trace
from notify_project.health import healthz, readyz
from notify_project.metrics_view import metrics_page


class FakeClient:
    id = 7


def echo(request: HttpRequest, user_id: str) -> HttpResponse:
    request.auth = FakeClient()
    return HttpResponse(trace.current_trace_id())


def adopt(request: HttpRequest) -> HttpResponse:
    trace.adopt_trace("order-4711")
    return HttpResponse(request.trace_id)


def fail(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("no mail for someone@example.com")


urlpatterns = [
    path("healthz", healthz),
    path("readyz", readyz),
    path("metrics", metrics_page),
    path("v1/users/<str:user_id>", echo),
    path("adopt", adopt),
    path("fail", fail),
]
