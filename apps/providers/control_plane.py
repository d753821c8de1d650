"""Calls that send no message: token endpoints, certificates, confirmations. Few, so plain ``requests`` does."""

import time

import requests
from django.conf import settings

from apps.providers.authorities import ca_bundle
from apps.providers.messages import ProviderRequest, ProviderResponse

MAX_ANSWER_BYTES = 65_536


def call(request: ProviderRequest) -> ProviderResponse:
    """The answer to ``request``, whatever its status; raises ``requests.RequestException`` when there is none in time,
    or one of more than 64 KiB. Redirects are not followed."""
    with requests.Session() as session:
        session.trust_env = False  # neither a proxy nor a .netrc of the environment
        answer = session.request(
            request.method,
            request.url,
            data=request.body or None,
            headers=dict(request.headers),
            timeout=(settings.PROVIDER_CONNECT_TIMEOUT_S, settings.PROVIDER_TIMEOUT_S),
            verify=ca_bundle(settings.PROVIDER_CA_FILE),
            allow_redirects=False,
            stream=True,
        )
        return ProviderResponse(status=answer.status_code, headers={}, body=_read_body(answer))


def _read_body(answer: requests.Response) -> bytes:
    # The time-out of requests is per read; a server that drips must not hold a worker.
    deadline = time.monotonic() + settings.PROVIDER_TIMEOUT_S
    body = bytearray()
    for chunk in answer.iter_content(4_096):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
            raise requests.ConnectionError("the answer is too large or too slow")
    return bytes(body)
