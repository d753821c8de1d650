"""Lists of people uploaded before a broadcast."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.db import transaction
from rest_framework.test import APIClient

from apps.delivery.broadcasts import uploads
from apps.delivery.broadcasts.uploads import forget_uploads, seal_upload
from apps.delivery.models import AudienceUpload, AudienceUploadPart
from apps.preferences.models import Recipient
from apps.preferences.services import erase_recipient
from apps.problems import Problem
from tests.clients.factories import make_api_key, make_client

pytestmark = pytest.mark.django_db
URL = "/v1/audiences"


@pytest.fixture
def people() -> dict[str, int]:
    Recipient.objects.bulk_create(Recipient(user_id=f"user-{number}") for number in range(1, 6))
    return dict(Recipient.objects.values_list("user_id", "id"))


def post(api, body: str | bytes, kind: str = "text/csv", url: str = URL):
    return api.generic("POST", url, body, content_type=kind)


def stored(answer) -> list[int]:
    parts = AudienceUploadPart.objects.filter(upload_id=answer.json()["id"]).order_by("id")
    return [number for part in parts for number in part.recipient_ids]


def assert_problem(response, status: int, pointer: str | None = None) -> None:
    assert response.status_code == status, response.content
    assert response["content-type"] == "application/problem+json"
    if pointer is not None:
        assert [error["pointer"] for error in response.json()["errors"]] == [pointer]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/csv", "user_id\nuser-1\nuser-3\n"),
        ("text/csv", "user-1\nuser-3"),
        ("text/csv", "user_id\r\nuser-1\r\n\r\nuser-3\r\n"),
        ("text/csv; charset=utf-8", "\ufeffuser_id\nuser-1\nuser-3\n"),
        ("text/csv", '"user_id"\n"user-1"\n user-3 \n'),
        ("text/csv", 'name,user_id\n"Doe, Jane",user-1\n"two\nlines",user-3\n'),
        ("application/x-ndjson", '{"user_id": "user-1"}\n\n{"user_id": "user-3", "plan": {"a": 1}}'),
        ("application/x-ndjson", '\ufeff{"user_id": "user-1"}\n{"user_id":"user-3"}\n'),
    ],
)
def test_takes_a_column_or_objects(api, people, kind, body):
    answer = post(api, body, kind)
    assert answer.status_code == 201, answer.content
    counts = {name: answer.json()[name] for name in ("lines", "known", "unknown", "sealed", "problems")}
    assert counts == {"lines": 2, "known": 2, "unknown": 0, "sealed": False, "problems": []}
    assert stored(answer) == [people["user-1"], people["user-3"]]


def test_says_which_lines_name_nobody(api, people):
    erase_recipient(user_id="user-2")
    answer = post(api, b"user_id\nuser-1\nnobody\n\nuser-2\nuser-1,x\n\xff\n" + b"x" * 140_000 + b"\nuser-3\n").json()
    assert (answer["lines"], answer["known"], answer["unknown"]) == (7, 2, 2)
    assert [(one["line"], one["detail"].split(",")[0]) for one in answer["problems"]] == [
        (3, "there is no such user"),
        (5, "there is no such user"),
        (6, "the row has no user id in the column user_id"),
        (7, "the row has no user id in the column user_id"),
        (8, "The line is longer than 131"),
    ]
    assert api.get(f"{URL}/{answer['id']}").json() == answer


def test_says_which_objects_name_nobody(api, people):
    body = '{"user_id": "user-1"}\n{"id": "user-2"}\n[]\n{"user_id": 2}\nnull\n{\n{"user_id": "\\u0000"}\n'
    answer = post(api, body, "application/x-ndjson").json()
    assert (answer["lines"], answer["known"], answer["unknown"]) == (7, 1, 0)
    assert [one["line"] for one in answer["problems"]] == [2, 3, 4, 5, 6, 7]


def test_no_word_of_a_line_comes_back(api, people):
    answer = post(api, "secret@example.com\n'; DROP TABLE audience_upload; --\n")
    assert answer.json()["unknown"] == 2
    assert b"secret" not in answer.content


def test_keeps_the_first_hundred_problems(api, people):
    answer = post(api, "\n".join(f"nobody-{number}" for number in range(250))).json()
    assert (answer["unknown"], len(answer["problems"])) == (250, 100)


def test_grows_by_further_requests(api, people):
    first = post(api, "user_id\nuser-1\nnobody\n").json()
    second = post(api, '{"user_id": "user-2"}\n{"user_id": "user-2"}\n{}\n', "application/x-ndjson",
                  f"{URL}/{first['id']}/lines")  # fmt: skip
    assert second.status_code == 200
    answer = second.json()
    assert (answer["lines"], answer["known"], answer["unknown"]) == (5, 3, 1)
    assert [one["line"] for one in answer["problems"]] == [3]
    assert [one["line"] for one in api.get(f"{URL}/{first['id']}").json()["problems"]] == [2 + 1, 3]
    assert stored(second) == [people["user-1"], people["user-2"], people["user-2"]]


def test_many_lines_become_several_parts(api, people, monkeypatch):
    monkeypatch.setattr(uploads, "_IDS_PER_PART", 2)
    answer = post(api, "\n".join(["user-1", "user-2", "user-3", "user-4", "user-5"]))
    assert [len(part.recipient_ids) for part in AudienceUploadPart.objects.order_by("id")] == [2, 2, 1]
    assert stored(answer) == [people[f"user-{number}"] for number in range(1, 6)]


def test_takes_a_name(api, people):
    assert post(api, "user-1", url=f"{URL}?name=Winners+2026").json()["name"] == "Winners 2026"
    assert_problem(post(api, "user-1", url=f"{URL}?name={'x' * 201}"), 422, "/name")


@pytest.mark.parametrize(("body", "kind"), [("", "text/csv"), (b"a\0b", "text/csv"), (b"\xff\xfea\0", "text/csv")])
def test_refuses_what_is_no_list(api, body, kind):
    assert_problem(post(api, body, kind), 422, "")
    assert AudienceUpload.objects.count() == 0


def test_refuses_other_types_and_names_its_own(api):
    response = post(api, '{"user_ids": []}', "application/json")
    assert_problem(response, 415)
    assert "text/csv" in response.json()["detail"]
    assert_problem(post(api, "user-1\n", url="/v1/dead-letters/replay"), 415)


def test_refuses_too_large_a_body(api, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 10
    assert_problem(post(api, "user-1\nuser-2\n"), 413)
    assert AudienceUpload.objects.count() == 0


def test_refuses_more_lines_than_an_audience_may_have(api, people, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_LINES", 3)
    first = post(api, "user-1\nuser-2\n").json()
    assert_problem(post(api, "user-1\nuser-2\n", url=f"{URL}/{first['id']}/lines"), 422, "")
    assert api.get(f"{URL}/{first['id']}").json()["lines"] == 2
    assert AudienceUploadPart.objects.count() == 1


def test_is_sealed_by_the_broadcast_that_uses_it(api, client_row, people):
    upload_id = post(api, "user-1\n").json()["id"]
    with transaction.atomic():
        seal_upload(client_row.pk, upload_id)
    assert_problem(post(api, "user-2\n", url=f"{URL}/{upload_id}/lines"), 409)
    assert api.get(f"{URL}/{upload_id}").json()["sealed"] is True


def test_belongs_to_its_client(api, people):
    upload_id = post(api, "user-1\n").json()["id"]
    other_client = make_client()
    other = APIClient(headers={"Authorization": f"Api-Key {make_api_key(other_client)}"})
    assert_problem(other.get(f"{URL}/{upload_id}"), 404)
    assert_problem(post(other, "user-1\n", url=f"{URL}/{upload_id}/lines"), 404)
    assert_problem(api.get(f"{URL}/{uuid4()}"), 404)
    with pytest.raises(Problem), transaction.atomic():
        seal_upload(other_client.pk, upload_id)


@pytest.mark.parametrize(
    ("scopes", "method", "status"),
    [
        (["broadcasts:read"], "post", 403),
        (["broadcasts:write"], "get", 403),
        (["notifications:write", "notifications:read"], "post", 403),
    ],
)
def test_needs_its_scope(people, scopes, method, status):
    api = APIClient(headers={"Authorization": f"Api-Key {make_api_key(make_client(scopes=scopes))}"})
    response = post(api, "user-1") if method == "post" else api.get(f"{URL}/{uuid4()}")
    assert_problem(response, status)


def test_is_forgotten_when_it_is_old(api, people):
    old, new = post(api, "user-1\n").json()["id"], post(api, "user-2\n").json()["id"]
    AudienceUpload.objects.filter(id=old).update(created_at=datetime.now(UTC) - timedelta(days=31))
    assert forget_uploads(retention_days=30) == 1
    assert [str(upload.id) for upload in AudienceUpload.objects.all()] == [new]
    assert AudienceUploadPart.objects.count() == 1
