import threading
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import pytest
from celery import current_app
from django.db import connection
from rest_framework.test import APIClient

from apps.channels import Channel
from apps.delivery.models import Delivery, IdempotencyKey, Notification
from apps.delivery.statuses import Reason
from apps.preferences.services import erase_recipient, suppress_address, update_preferences
from tests.clients.factories import make_api_key, make_client
from tests.delivery.template_bodies import make_template
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db
URL = "/v1/notifications"


def body_for(recipient, **changes):
    return {
        "user_id": recipient.user_id,
        "type": "otp",
        "priority": "high",
        "content": {"title": "Your code", "body": "123456 is your code."},
        **changes,
    }


def post(api, body, key=None):
    return api.post(URL, body, format="json", headers={"X-Idempotency-Key": key or str(uuid4())})


def assert_problem(response, status, pointer=None):
    assert response.status_code == status, response.content
    assert response["content-type"].startswith("application/problem+json")
    document = response.json()
    assert document["status"] == status
    assert document["detail"]
    if pointer is not None:
        assert [error["pointer"] for error in document["errors"]] == [pointer]
    assert Notification.objects.count() == Delivery.objects.count() == IdempotencyKey.objects.count() == 0


def queued_messages(queue):
    with current_app.connection_for_read() as broker:
        return broker.default_channel.client.llen(queue)


def test_accepted_notification_is_written_with_a_delivery_per_channel_and_rung_for(api):
    recipient = RecipientFactory(devices=["one", "two"])
    response = post(api, body_for(recipient))
    assert response.status_code == 202
    answer = response.json()
    assert [one["channel"] for one in answer["deliveries"]] == ["push", "push", "sms", "email"]
    assert {one["status"] for one in answer["deliveries"]} == {"queued"}
    rows = Delivery.objects.order_by("id")
    assert [str(row.id) for row in rows] == [one["id"] for one in answer["deliveries"]]
    assert {row.notification_id for row in rows} == {answer["id"]}
    assert [queued_messages(f"notif.{name}.high") for name in ("push", "sms", "email")] == [1, 1, 1]


def test_type_named_like_a_channel_chooses_it(api):
    answer = post(api, body_for(RecipientFactory(), type="sms")).json()
    assert [one["channel"] for one in answer["deliveries"]] == ["sms"]


def test_content_is_stored_encrypted(api):
    post(api, body_for(RecipientFactory(), content={"title": "secret title", "body": "secret body"}))
    with connection.cursor() as cursor:
        cursor.execute("SELECT n::text, encode(content_ct, 'escape') FROM notification n")
        (row,) = cursor.fetchall()
    assert "secret" not in "".join(row)


def test_every_refusal_has_its_reason(api):
    recipient = RecipientFactory(phone=None, channels={Channel.PUSH: False})
    suppress_address(channel=Channel.EMAIL, user_id=recipient.user_id, source="test", reason="bounced")
    answer = post(api, body_for(recipient, channels=["push", "sms", "email"])).json()
    assert {one["channel"]: (one["status"], one["reason"]) for one in answer["deliveries"]} == {
        "push": ("suppressed", "channel_opt_out"),
        "sms": ("suppressed", "no_address"),
        "email": ("suppressed", "address_suppressed"),
    }
    assert answer["status"] == "suppressed"


def test_opted_out_recipient_gets_nothing(api):
    recipient = RecipientFactory()
    update_preferences(user_id=recipient.user_id, is_opted_out=True)
    answer = post(api, body_for(recipient)).json()
    assert {one["reason"] for one in answer["deliveries"]} == {"global_opt_out"}
    assert queued_messages("notif.sms.high") == 0


def test_same_key_and_body_answers_again_and_writes_once(api):
    body = body_for(RecipientFactory())
    first, second = post(api, body, "key"), post(api, body, "key")
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert (first.get("Idempotency-Replayed"), second["Idempotency-Replayed"]) == (None, "true")
    assert Notification.objects.count() == 1


def test_replay_answers_even_after_the_recipient_is_gone(api):
    recipient = RecipientFactory()
    first = post(api, body_for(recipient), "key")
    erase_recipient(user_id=recipient.user_id)
    assert post(api, body_for(recipient), "key").json() == first.json()


def test_same_key_with_another_body_is_refused(api):
    recipient = RecipientFactory()
    post(api, body_for(recipient), "key")
    response = post(api, body_for(recipient, type="other"), "key")
    assert response.status_code == 422
    assert response.json()["type"].endswith("idempotency-key-reused")
    assert Notification.objects.count() == 1


def test_keys_of_two_clients_do_not_meet(api):
    body = body_for(RecipientFactory())
    other = APIClient(headers={"Authorization": f"Api-Key {make_api_key(make_client())}"})
    assert post(api, body, "key").json()["id"] != post(other, body, "key").json()["id"]


@pytest.mark.django_db(transaction=True)
def test_same_key_ten_times_at_once_makes_one_notification(client_row):
    body = body_for(RecipientFactory())
    headers = {"Authorization": f"Api-Key {make_api_key(client_row)}"}
    barrier = threading.Barrier(10)
    responses = []

    def call():
        try:
            barrier.wait(5)
            responses.append(post(APIClient(headers=headers), body, "one-key"))
        finally:
            connection.close()

    threads = [threading.Thread(target=call) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(responses) == 10
    assert {response.status_code for response in responses} <= {202, 409}
    assert len({response.json()["id"] for response in responses if response.status_code == 202}) == 1
    assert Notification.objects.count() == 1


@pytest.mark.parametrize("key", [None, "", "x" * 256, "with space", "ümlaut"])
def test_bad_idempotency_key_is_refused(api, key):
    headers = {} if key is None else {"X-Idempotency-Key": key}
    response = api.post(URL, body_for(RecipientFactory()), format="json", headers=headers)
    assert_problem(response, 400)


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"user_id": "nobody"}, "/user_id"),
        ({"channels": ["fax"]}, "/channels/0"),
        ({"priority": 1}, "/priority"),
        ({"content": {"title": "t", "body": "x" * 4_096}, "channels": ["push"]}, "/content/body"),
        ({"content": {"title": "t", "body": "x" * 4_096}}, "/content/body"),
        ({"data": {"k": "x" * 4_090}, "channels": ["push"]}, "/data"),
        ({"content": {"body": "b", "push": {"badge": -1}}}, "/content/push/badge"),
        ({"content": {"body": "b", "push": {"bagde": 1}}}, "/content/push/bagde"),
        ({"content": {"body": "b", "push": {"data": {"from": "x"}}}}, "/content/push/data/from"),
        ({"content": {"body": "b", "push": {"body": "x" * 4_096}}}, "/content/push/body"),
        ({"content": {"body": "b", "sms": {"body": "x" * 1_601}}}, "/content/sms/body"),
        ({"content": {"body": "b", "title": "two\r\nlines"}}, "/content/title"),
        ({"content": {"body": "b", "email": {"from_name": "a\nb"}}}, "/content/email/from_name"),
        ({"content": {"body": "x" * 1_601}, "channels": ["sms"]}, "/content/body"),
        ({"data": {"from": "x"}}, "/data/from"),
        ({"data": {"google.x": "x"}}, "/data/google.x"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"send_at": "2999-01-01T00:00:00Z"}, "/send_at"),
        ({"expires_at": "9999-12-31T23:59:59-14:00"}, "/expires_at"),
        ({"send_at": "0001-01-01T00:00:00+14:00"}, "/send_at"),
        ({"data": {"google_id": "x"}}, "/data/google_id"),
    ],
)
def test_bad_field_is_refused_and_nothing_written(api, change, pointer):
    assert_problem(post(api, body_for(RecipientFactory(), **change)), 422, pointer)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b'"x"', b'{"user_id": NaN}', b"\xff\xfe", b'{"a": "\\u0000"}']
)
def test_bad_json_is_refused(api, raw):
    response = api.generic("POST", URL, raw, content_type="application/json", headers={"X-Idempotency-Key": "k"})
    assert response.status_code in (400, 422)
    assert_problem(response, response.status_code)


def test_dry_run_decides_and_writes_nothing(api):
    recipient = RecipientFactory(channels={Channel.SMS: False})
    response = post(api, body_for(recipient, dry_run=True))
    assert response.status_code == 200
    answer = response.json()
    assert answer["id"] is None
    assert {one["channel"]: one["status"] for one in answer["deliveries"]} == {
        "push": "queued",
        "sms": "suppressed",
        "email": "queued",
    }
    assert Notification.objects.count() == IdempotencyKey.objects.count() == 0


def test_scheduled_notification_waits(api):
    later = datetime.now(UTC) + timedelta(hours=2)
    answer = post(api, body_for(RecipientFactory(), send_at=later.isoformat())).json()
    assert {one["reason"] for one in answer["deliveries"]} == {"scheduled"}
    assert queued_messages("notif.sms.high") == 0
    row = Delivery.objects.first()
    assert row.ring_at == row.next_attempt_at == later


def test_detail_tells_the_whole_story_to_its_client_only(api):
    created = post(api, body_for(RecipientFactory(), trace_id="my-trace")).json()
    detail = api.get(f"{URL}/{created['id']}").json()
    assert detail["trace_id"] == "my-trace"
    assert detail["priority"] == "high"
    assert [one["id"] for one in detail["deliveries"]] == [one["id"] for one in created["deliveries"]]
    assert all(one["explanation"] for one in detail["deliveries"])
    other = APIClient(headers={"Authorization": f"Api-Key {make_api_key(make_client())}"})
    assert other.get(f"{URL}/{created['id']}").status_code == 404
    assert other.post(f"{URL}/{created['id']}/cancel").status_code == 404
    assert other.get(URL).json() == {"results": [], "next": None}


@pytest.mark.parametrize("path", [f"{URL}/{UUID(int=0)}", f"{URL}/not-a-uuid", "/v1/nothing"])
def test_unknown_path_is_a_404_problem(api, path):
    assert_problem(api.get(path), 404)


def test_list_pages_newest_first(api):
    recipient = RecipientFactory()
    ids = [post(api, body_for(recipient)).json()["id"] for _ in range(5)]
    first = api.get(URL, {"limit": 3}).json()
    second = api.get(URL, {"limit": 3, "cursor": first["next"]}).json()
    assert [one["id"] for one in first["results"] + second["results"]] == sorted(ids, reverse=True)
    assert second["next"] is None
    assert all(len(one["deliveries"]) == 3 for one in first["results"])


def test_list_filters(api):
    one, two = RecipientFactory(), RecipientFactory(channels={Channel.SMS: False})
    first = post(api, body_for(one, type="sms")).json()["id"]
    second = post(api, body_for(two, type="sms")).json()["id"]
    third = post(api, body_for(two, type="news", channels=["email"])).json()["id"]

    def found(**parameters):
        return {row["id"] for row in api.get(URL, parameters).json()["results"]}

    assert found(user_id=two.user_id) == {second, third}
    assert found(type="news") == {third}
    assert found(status="suppressed") == {second}
    assert found(status="queued", channel="sms") == {first}
    assert found(since="2020-01-01T00:00:00Z") == {first, second, third}
    assert found(until="2020-01-01T00:00:00Z") == set()


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=x", "limit=²", "cursor=x", "status=x", "channel=fax", "since=x", "until=2020-01-01",
     "since=0001-01-01T00:00:00%2B14:00", "colour=red"],
)  # fmt: skip
def test_bad_filter_is_refused(api, query):
    assert_problem(api.get(f"{URL}?{query}"), 422, "/" + query.split("=")[0])


def test_cancel_stops_what_has_not_left(api):
    created = post(api, body_for(RecipientFactory())).json()
    answer = api.post(f"{URL}/{created['id']}/cancel").json()
    assert answer == {"id": created["id"], "cancelled": 3, "status": "cancelled"}
    assert api.post(f"{URL}/{created['id']}/cancel").json()["cancelled"] == 0
    detail = api.get(f"{URL}/{created['id']}").json()
    assert {one["reason"] for one in detail["deliveries"]} == {"cancelled_by_client"}


def test_caller_without_scope_is_refused(client_row):
    reader = make_client(scopes=["notifications:read"])
    api = APIClient(headers={"Authorization": f"Api-Key {make_api_key(reader)}"})
    assert_problem(post(api, body_for(RecipientFactory())), 403)
    assert_problem(APIClient().get(URL), 401)


@pytest.mark.parametrize("path", [f"{URL}/%00", f"{URL}?user_id=%00", f"{URL}?user_id=%FF"])
def test_nul_or_broken_utf8_in_a_url_is_refused(api, path):
    assert_problem(api.get(path), 400)


def test_any_offset_of_a_time_is_understood(api):
    later = (datetime.now(UTC) + timedelta(hours=2)).replace(microsecond=0)
    zone = timezone(timedelta(hours=23, minutes=59))
    post(api, body_for(RecipientFactory(), send_at=later.astimezone(zone).isoformat(), type="sms"))
    assert Delivery.objects.get().next_attempt_at == later


def test_send_at_in_the_past_means_now(api):
    answer = post(api, body_for(RecipientFactory(), send_at="2000-01-01T00:00:00Z", type="sms")).json()
    assert answer["deliveries"][0]["not_before"] is None
    assert queued_messages("notif.sms.high") == 1


def test_cancel_does_not_claim_what_it_cannot_know(api):
    created = post(api, body_for(RecipientFactory(), type="sms")).json()
    Delivery.objects.update(reason=Reason.RETRY_AFTER_UNKNOWN, provider=3)
    answer = api.post(f"{URL}/{created['id']}/cancel").json()
    assert (answer["cancelled"], answer["status"]) == (0, "unknown")


@pytest.mark.parametrize(("body", "segments"), [("x" * 160, 1), ("x" * 161, 2), ("ž" * 71, 2)])
def test_parts_of_an_sms_are_told(api, body, segments):
    answer = post(api, body_for(RecipientFactory(), content={"body": body}, dry_run=True)).json()
    assert {one["channel"]: one["segments"] for one in answer["deliveries"]} == {
        "push": None,
        "sms": segments,
        "email": None,
    }


def test_ordering_key_is_shown_and_stored_encrypted(api):
    recipient = RecipientFactory()
    created = post(api, body_for(recipient, type="sms", ordering_key="case-of-ann")).json()
    assert api.get(f"{URL}/{created['id']}").json()["ordering_key"] == "case-of-ann"
    plain = post(api, body_for(recipient, type="sms")).json()
    assert api.get(f"{URL}/{plain['id']}").json()["ordering_key"] is None
    with connection.cursor() as cursor:
        cursor.execute("SELECT n::text, d::text, encode(content_ct, 'escape') FROM notification n, delivery d")
        assert "case-of-ann" not in str(cursor.fetchall())
    with connection.cursor() as cursor:
        cursor.execute("UPDATE notification SET content_ct = ''")
    assert api.get(f"{URL}/{created['id']}").json()["ordering_key"] is None


@pytest.mark.parametrize("other", ["another key", "another client"])
def test_ordering_hash_tells_keys_and_clients_apart(api, other):
    recipient = RecipientFactory()
    post(api, body_for(recipient, type="sms", ordering_key="one"))
    post(api, body_for(recipient, type="sms", ordering_key="one"))
    if other == "another key":
        post(api, body_for(recipient, type="sms", ordering_key="two"))
    else:
        elsewhere = APIClient(headers={"Authorization": f"Api-Key {make_api_key(make_client())}"})
        post(elsewhere, body_for(recipient, type="sms", ordering_key="one"))
    first, second, third = Delivery.objects.order_by("order_no")
    assert first.order_hash == second.order_hash != third.order_hash
    assert 0 < first.order_no < second.order_no < third.order_no


def test_words_may_come_from_a_template(api, client_row):
    make_template(client_row)
    context = {"name": "Ann", "link": "https://example.com/1"}
    body = {**body_for(RecipientFactory()), "template": "order", "context": context}
    del body["content"]
    answer = post(api, body, "key")
    assert answer.status_code == 202
    assert [one["channel"] for one in answer.json()["deliveries"]] == ["push", "sms", "email"]
    assert post(api, body, "key").json() == answer.json()
    again = post(api, {**body, "context": {**context, "name": "Bea"}}, "key")
    assert again.json()["type"] == "/problems/idempotency-key-reused"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"template": "order"}, ""),  # besides content
        ({"template": "Not A Name", "content": None}, "/template"),
        ({"template": "nothing", "content": None}, "/template"),
        ({"content": None}, "/content"),
        ({"context": {"name": "Ann"}}, "/template"),
    ],
)
def test_template_and_content_exclude_each_other(api, client_row, change, pointer):
    make_template(client_row)
    assert_problem(post(api, body_for(RecipientFactory(), **change)), 422, pointer)
