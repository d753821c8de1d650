"""Whose word about the caller counts."""

import os
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from notify_project.edge import EdgeMiddleware

ROOT = Path(__file__).parents[2]
INSIDE, OUTSIDE, FORGED = "10.0.0.7", "198.51.100.9", "203.0.113.5"


@pytest.fixture(autouse=True)
def networks(settings) -> None:
    settings.TRUSTED_PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")


def arrive(rf: RequestFactory, remote: str, said: str | None) -> HttpRequest:
    headers = {"HTTP_X_FORWARDED_PROTO": "https"} | ({} if said is None else {"HTTP_X_FORWARDED_FOR": said})
    request = rf.get("/v1/x", REMOTE_ADDR=remote, **headers)
    EdgeMiddleware(lambda request: HttpResponse())(request)
    return request


@pytest.mark.parametrize(
    ("remote", "said", "caller"),
    [
        (INSIDE, OUTSIDE, OUTSIDE),
        (INSIDE, f"{FORGED}, {OUTSIDE}", OUTSIDE),
        (INSIDE, f"{FORGED},{OUTSIDE}, 10.1.1.1", OUTSIDE),
        (INSIDE, "10.2.2.2", "10.2.2.2"),
        (INSIDE, f"{OUTSIDE}, rubbish", INSIDE),
        (INSIDE, "", INSIDE),
        (INSIDE, None, INSIDE),
        ("::ffff:10.0.0.7", OUTSIDE, OUTSIDE),
        ("fd00::1", "2001:db8::1", "2001:db8::1"),
        (OUTSIDE, FORGED, OUTSIDE),
        ("", FORGED, ""),
    ],
)
def test_caller_is_the_last_address_that_a_trusted_proxy_names(rf, remote: str, said: str | None, caller: str) -> None:
    assert arrive(rf, remote, said).META["REMOTE_ADDR"] == caller


def test_only_a_trusted_proxy_can_say_that_a_request_came_by_tls(rf: RequestFactory) -> None:
    assert arrive(rf, INSIDE, OUTSIDE).is_secure()
    assert not arrive(rf, OUTSIDE, None).is_secure()


def test_deployment_behind_https_has_no_warnings() -> None:
    secure = {"PUBLIC_URL": "https://notify.example.com", "TRUSTED_PROXIES": "10.0.0.0/8", "SECRET_KEY": "0aB-z" * 20}
    command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level=WARNING", "--tag=security"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | secure, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
