"""What a caller may do: the scopes a view asks for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from django.core.exceptions import ImproperlyConfigured
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from apps.clients.models import Client
from apps.problems import Problem

if TYPE_CHECKING:
    from rest_framework.views import APIView  # its import reads the settings that name this module


class HasScope(BasePermission):
    """The client has the scope the view requires: ``required_scopes = {"POST": "notifications:write"}``.

    A view without the declaration is a mistake and answers nobody. ``HEAD`` needs what ``GET`` needs; ``OPTIONS`` needs
    a credential only.
    """

    def has_permission(self, request: Request, view: "APIView") -> bool:
        """Whether the call may go on; raises ``Problem`` 403 naming the missing scope."""
        client = request.user
        if not isinstance(client, Client):
            return False
        scope = required_scope(view, request.method or "")
        if scope is not None and scope not in client.scopes:
            raise Problem(
                403,
                "insufficient-scope",
                f"This call needs the scope {scope}. Ask for it to be added to the client, or to the token.",
                # RFC 6750, 3.1
                headers={"WWW-Authenticate": f'Bearer realm="notify", error="insufficient_scope", scope="{scope}"'},
            )
        return True


def required_scope(view: "APIView", method: str) -> str | None:
    """The scope ``view`` requires for ``method``; None for ``OPTIONS`` and for methods the view does not have."""
    scopes: Mapping[str, str] | None = getattr(view, "required_scopes", None)
    method = "GET" if method == "HEAD" else method
    if scopes is not None and method in scopes:
        return scopes[method]
    if method != "OPTIONS" and getattr(view, method.lower(), None) is not None:
        raise ImproperlyConfigured(f"{type(view).__name__}.required_scopes names no scope for {method}")
    return None
