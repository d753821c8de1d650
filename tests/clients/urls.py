"""A small API for the tests: what it answers is who called."""

from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.clients.throttling import charge


class WhoView(APIView):
    required_scopes = {"GET": "notifications:read", "POST": "notifications:write"}

    def get(self, request: Request) -> Response:
        return Response({"client": request.user.name, "scopes": request.auth.scopes})

    def post(self, request: Request) -> Response:
        charge(request, int(request.data["items"]) - 1)
        return Response({"items": request.data["items"]})


class UndeclaredView(APIView):
    def get(self, request: Request) -> Response:
        return Response({})


class OpenView(APIView):
    authentication_classes = ()
    permission_classes = ()

    def get(self, request: Request) -> Response:
        return Response({})


urlpatterns = [
    path("v1/who", WhoView.as_view()),
    path("v1/undeclared", UndeclaredView.as_view()),
    path("v1/open", OpenView.as_view()),
]
