"""Views that answer or fail in every way there is."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import path
from rest_framework import exceptions, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.problems import FieldError, Problem


class OpenView(APIView):
    authentication_classes = ()
    permission_classes = ()


class EchoView(OpenView):
    def get(self, request: Request, **kwargs: Any) -> Response:
        return Response({"query": request.query_params.dict(), **kwargs})

    def post(self, request: Request) -> Response:
        return Response(request.data)


class ContentSerializer(serializers.Serializer[Any]):
    title = serializers.CharField(max_length=5)
    body = serializers.CharField()


class MessageSerializer(serializers.Serializer[Any]):
    user_id = serializers.CharField()
    content = ContentSerializer()
    channels = serializers.ListField(child=serializers.ChoiceField(["push", "sms"]))
    items = serializers.ListField(child=serializers.DictField(), required=False)
    rules = ContentSerializer(many=True, required=False)

    def validate(self, attrs: Any) -> Any:
        if attrs["user_id"] == "both":
            raise serializers.ValidationError("Give one of the two.", code="conflict")
        return attrs


class ValidatedView(OpenView):
    def post(self, request: Request) -> Response:
        serializer = MessageSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return Response(status=204)


FAILURES = {
    "problem": Problem(
        409,
        "in-progress",
        "Wait.",
        errors=[FieldError("/a~1b", "Wrong.", "odd")],
        headers={"Retry-After": "3"},
    ),
    "parse": exceptions.ParseError(),
    "permission": exceptions.PermissionDenied(),
    "django-permission": PermissionDenied(),
    "not-found": exceptions.NotFound(),
    "django-404": Http404("secret words"),
    "throttled": exceptions.Throttled(wait=1.2),
    "too-big": RequestDataTooBig(),
    "api-error": exceptions.APIException(),
    "surrogate": Problem(422, "invalid-request", "Wrong: \ud800"),
    "crash": RuntimeError("secret words"),
}


class FailView(OpenView):
    def get(self, request: Request, kind: str) -> Response:
        raise FAILURES[kind]


class DatabaseView(OpenView):
    def get(self, request: Request) -> Response:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return Response({})


class TypesView(OpenView):
    def get(self, request: Request) -> Response:
        return Response(
            {
                "time": datetime(2026, 1, 2, 3, 4, 5, 6000, tzinfo=UTC),
                "id": UUID(int=7),
                "amount": Decimal("1.10"),
                "words": frozenset(["b", "a"]),
                3: None,
            }
        )


def crash_outside_the_api(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("secret words")


urlpatterns = [
    path("v1/echo", EchoView.as_view()),
    path("v1/echo/<str:word>", EchoView.as_view()),
    path("v1/validated", ValidatedView.as_view()),
    path("v1/fail/<str:kind>", FailView.as_view()),
    path("v1/database", DatabaseView.as_view()),
    path("v1/types", TypesView.as_view()),
    path("v1/plain-crash", crash_outside_the_api),
    path("admin/crash", crash_outside_the_api),
]
handler400 = "notify_project.problems.handle_bad_request"
handler403 = "notify_project.problems.handle_forbidden"
handler404 = "notify_project.problems.handle_not_found"
handler500 = "notify_project.problems.handle_server_error"
