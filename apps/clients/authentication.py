"""Who is calling: an API key or a JWT in the request's headers."""

import copy
import re

from django.conf import settings
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from apps.clients import selectors, services
from apps.clients.models import Client
from apps.clients.tokens import InvalidTokenError, verify_token

_REALM = "notify"
_BAD_CREDENTIALS = "The API key is unknown, expired or revoked."
_MISFORMED = (
    "Send the API key as 'Authorization: Api-Key <key>' or 'X-API-Key: <key>', "
    "or a JWT as 'Authorization: Bearer <jwt>'."
)
_AUTHORIZATION = re.compile(r"(api-key|bearer) +([\x21-\x7e]+)", re.ASCII | re.IGNORECASE)


class ClientAuthentication(BaseAuthentication):
    """``Authorization: Api-Key <key>``, ``Authorization: Bearer <key or JWT>`` or ``X-API-Key: <key>``.

    ``request.user`` and ``request.auth`` both become the ``Client``. Its ``scopes`` are those of this call: a JWT may
    narrow them.
    """

    def authenticate(self, request: Request) -> tuple[Client, Client] | None:
        """The calling client, or None without credentials; raises ``AuthenticationFailed`` for bad ones."""
        authorization = request.META.get("HTTP_AUTHORIZATION")
        header_key = request.META.get("HTTP_X_API_KEY")
        if authorization is None and header_key is None:
            return None
        if authorization is not None and header_key is not None:
            raise AuthenticationFailed("Send one credential: either Authorization or X-API-Key.")
        scheme, credential = "api-key", header_key or ""
        if authorization is not None:
            match = _AUTHORIZATION.fullmatch(authorization.strip())
            if match is None:
                raise AuthenticationFailed(_MISFORMED)
            scheme, credential = match[1].lower(), match[2]
        # An API key has one dot, a JWT two.
        is_token = scheme == "bearer" and credential.count(".") == 2
        client = authenticate_token(credential) if is_token else authenticate_api_key(credential)
        return client, client

    def authenticate_header(self, request: Request) -> str:
        """The challenges of a 401 (RFC 9110, 11.6.1; RFC 6750, 3)."""
        given = "HTTP_AUTHORIZATION" in request.META or "HTTP_X_API_KEY" in request.META
        error = ', error="invalid_token"' if given else ""
        return f'Bearer realm="{_REALM}"{error}, Api-Key realm="{_REALM}"'


def authenticate_api_key(text: str) -> Client:
    """The client whose living API key ``text`` is; raises ``AuthenticationFailed``."""
    now = timezone.now()
    credential = selectors.find_api_key(text, now=now)
    if credential is None:
        raise AuthenticationFailed(_BAD_CREDENTIALS)
    services.record_key_use(credential=credential, now=now)
    return credential.client


def authenticate_token(token: str) -> Client:
    """The client who signed ``token``, its scopes narrowed to the token's; raises ``AuthenticationFailed``."""
    try:
        grant = verify_token(
            token,
            find=lambda kid, issuer: selectors.find_jwt_key(kid=kid, issuer=issuer),
            audience=settings.JWT_AUDIENCE,
            pepper=settings.API_KEY_PEPPER,
        )
    except InvalidTokenError as error:
        raise AuthenticationFailed(str(error)) from None
    if grant.scopes is None:
        return grant.client
    client = copy.copy(grant.client)  # the one in the cache is shared
    client.scopes = [scope for scope in grant.client.scopes if scope in grant.scopes]
    return client
