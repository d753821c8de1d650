"""``POST /v1/notifications/batch``: every item on its own, every promise of a single call kept."""

import threading
from collections import Counter
from uuid import uuid4

import pytest
from celery import current_app
from django.db import connection
from django.utils import timezone
from django_redis import get_redis_connection
from rest_framework.test import APIClient

from apps.channels import Channel, Lane
from apps.clients.models import RateTier
from apps.delivery import doorbell
from apps.delivery.models import Delivery, IdempotencyKey, Notification
from apps.preferences.services import erase_recipient, update_preferences
from notify_project import database
from tests.clients.factories import make_api_key, make_client
from tests.delivery.template_bodies import make_template
from tests.preferences.factories import RecipientFactory
from tests.waiting import wait_for

pytestmark = pytest.mark.django_db
URL = "/v1/notifications/batch"
SINGLE = "/v1/notifications"


def item_for(recipient, key=None, **changes):
    return {
        "idempotency_key": key or str(uuid4()),
        "user_id": recipient.user_id,
        "type": "sms",
        "priority": "high",
        "content": {"title": "Your code", "body": "123456 is your code."},
        **changes,
    }


def post(api, items):
    return api.post(URL, {"items": items}, format="json")


def post_single(api, item):
    body = {name: value for name, value in item.items() if name != "idempotency_key"}
    return api.post(SINGLE, body, format="json", headers={"X-Idempotency-Key": item["idempotency_key"]})


def results_of(response):
    assert response.status_code == 207, response.content
    answer = response.json()
    assert answer["accepted"] + answer["refused"] == len(answer["results"])
    assert all((one["notification"] is None) != (one["problem"] is None) for one in answer["results"])
    return answer["results"]


def queued_messages(queue):
    with current_app.connection_for_read() as broker:
        return broker.default_channel.client.llen(queue)


def written():
    return Notification.objects.count(), Delivery.objects.count(), IdempotencyKey.objects.count()


@pytest.fixture
def recipients():
    return [RecipientFactory() for _ in range(5)]


def test_every_item_is_accepted_in_order_with_few_doorbells(api, recipients):
    results = results_of(post(api, [item_for(recipient) for recipient in recipients]))
    assert [one["status"] for one in results] == [202] * 5
    assert [one["notification"]["user_id"] for one in results] == [recipient.user_id for recipient in recipients]
    assert written() == (5, 5, 5)
    assert queued_messages("notif.sms.high") == 1
    detail = api.get(f"{SINGLE}/{results[3]['notification']['id']}").json()
    assert [one["id"] for one in detail["deliveries"]] == [
        one["id"] for one in results[3]["notification"]["deliveries"]
    ]


def test_each_item_has_lane_channels_and_words_of_its_own(api, recipients):
    items = [
        item_for(recipients[0], priority="bulk", type="push"),
        item_for(recipients[1], type="news", channels=["sms", "email"]),
        item_for(recipients[2], trace_id="mine", send_at="2100-01-01T00:00:00Z"),
    ]
    results = results_of(post(api, items))
    assert [one["status"] for one in results] == [202, 202, 422]
    assert Counter(Delivery.objects.values_list("lane", "channel")) == {(2, 1): 1, (1, 2): 1, (1, 3): 1}
    assert results[2]["problem"]["errors"][0]["pointer"] == "/items/2/send_at"
    assert results[2]["problem"]["trace_id"] == "mine"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"user_id": "nobody"}, "/items/1/user_id"),
        ({"content": {"title": "t"}}, "/items/1/content/body"),
        ({"channels": ["fax"]}, "/items/1/channels/0"),
        ({"data": {"from": "x"}}, "/items/1/data/from"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/items/1/expires_at"),
        ({"content": {"body": "x" * 1_601}}, "/items/1/content/body"),
        ({"category": "nothing-like-it"}, "/items/1/category"),
        ({"idempotency_key": "with space"}, "/items/1/idempotency_key"),
        ({"idempotency_key": ""}, "/items/1/idempotency_key"),
        ({"idempotency_key": 5}, "/items/1/idempotency_key"),
        ({"colour": "red"}, "/items/1/colour"),
        ({"ordering_key": "ü"}, "/items/1/ordering_key"),
    ],
)
def test_wrong_item_is_pointed_at_and_stops_no_other(api, recipients, change, pointer):
    items = [item_for(recipients[0]), {**item_for(recipients[1]), **change}, item_for(recipients[2])]
    results = results_of(post(api, items))
    assert [one["status"] for one in results] == [202, 422, 202]
    assert [error["pointer"] for error in results[1]["problem"]["errors"]] == [pointer]
    assert written() == (2, 2, 2)


@pytest.mark.parametrize("item", [None, 5, "x", [], {}])
def test_item_that_is_no_notification_is_pointed_at(api, recipients, item):
    results = results_of(post(api, [item, item_for(recipients[0])]))
    assert [one["status"] for one in results] == [422, 202]
    assert results[0]["problem"]["errors"][0]["pointer"].startswith("/items/0")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/items"),
        ({"items": []}, "/items"),
        ({"items": {}}, "/items"),
        ({"items": None}, "/items"),
        ({"items": [1] * 1_001}, "/items"),
        ({"items": [{}], "priority": "high"}, "/priority"),
    ],
)
def test_body_that_is_no_batch_is_refused_whole(api, body, pointer):
    response = api.post(URL, body, format="json")
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]


def test_same_batch_again_is_answered_again_and_writes_nothing(api, recipients):
    items = [item_for(recipient) for recipient in recipients]
    first, again = results_of(post(api, items)), results_of(post(api, items))
    assert {(one["status"], one["replayed"]) for one in again} == {(200, True)}
    assert [one["notification"] for one in again] == [one["notification"] for one in first]
    assert written() == (5, 5, 5)


def test_keys_are_the_same_for_a_batch_and_a_single_call(api, recipients):
    one, two = item_for(recipients[0]), item_for(recipients[1])
    single = post_single(api, one)
    results = results_of(post(api, [one, two]))
    assert [(result["status"], result["replayed"]) for result in results] == [(200, True), (202, False)]
    assert results[0]["notification"] == single.json()
    replayed = post_single(api, two)
    assert (replayed.status_code, replayed["Idempotency-Replayed"]) == (202, "true")
    assert replayed.json() == results[1]["notification"]
    changed = post_single(api, {**two, "type": "other"})
    assert (changed.status_code, changed.json()["type"]) == (422, "/problems/idempotency-key-reused")


def test_key_twice_in_a_batch_is_a_replay_or_a_mistake(api, recipients):
    first = item_for(recipients[0], "key")
    results = results_of(post(api, [first, dict(first), {**first, "type": "other"}, item_for(recipients[1])]))
    assert [(one["status"], one["replayed"]) for one in results] == [
        (202, False),
        (200, True),
        (422, False),
        (202, False),
    ]
    assert results[1]["notification"] == results[0]["notification"]
    assert results[2]["problem"]["type"] == "/problems/idempotency-key-reused"
    assert written() == (2, 2, 2)


def test_key_of_a_refused_item_is_free(api, recipients):
    bad, good = item_for(recipients[0], "key", user_id="nobody"), item_for(recipients[0], "key")
    results = results_of(post(api, [bad, good]))
    assert [one["status"] for one in results] == [422, 202]


def test_replay_answers_even_after_the_recipient_is_gone(api, recipients):
    items = [item_for(recipients[0])]
    (first,) = results_of(post(api, items))
    erase_recipient(user_id=recipients[0].user_id)
    (again,) = results_of(post(api, items))
    assert (again["status"], again["notification"]) == (200, first["notification"])


def test_keys_survive_a_flush_of_redis(api, recipients):
    items = [item_for(recipient) for recipient in recipients]
    first = results_of(post(api, items))
    get_redis_connection("default").flushall()
    with current_app.connection_for_write() as broker:
        broker.default_channel.client.flushall()
    again = results_of(post(api, items))
    assert [one["notification"]["id"] for one in again] == [one["notification"]["id"] for one in first]
    assert post_single(api, items[2]).json() == first[2]["notification"]
    assert written() == (5, 5, 5)


def test_keys_of_two_clients_do_not_meet(api, recipients):
    item = item_for(recipients[0], "key")
    other = APIClient(headers={"Authorization": f"Api-Key {make_api_key(make_client())}"})
    (mine,), (theirs,) = results_of(post(api, [item])), results_of(post(other, [item]))
    assert mine["notification"]["id"] != theirs["notification"]["id"]


def test_dry_run_decides_and_writes_nothing(api, recipients):
    results = results_of(post(api, [item_for(recipients[0], dry_run=True), item_for(recipients[1])]))
    assert [one["status"] for one in results] == [200, 202]
    assert results[0]["notification"]["id"] is None
    assert not results[0]["replayed"]
    assert written() == (1, 1, 1)


def test_changed_preferences_count_at_once_though_the_old_ones_are_cached(api, recipients):
    (recipient, other, *_) = recipients
    for one in (recipient, other):  # their snapshots are cached now
        post_single(api, item_for(one))
    update_preferences(user_id=recipient.user_id, channels={Channel.SMS: False})
    results = results_of(post(api, [item_for(recipient), item_for(other)]))
    assert [one["notification"]["deliveries"][0]["status"] for one in results] == ["suppressed", "queued"]


def test_caller_without_scope_is_refused(recipients):
    reader = make_client(scopes=["notifications:read"])
    response = APIClient(headers={"Authorization": f"Api-Key {make_api_key(reader)}"}).post(
        URL, {"items": [item_for(recipients[0])]}, format="json"
    )
    assert response.status_code == 403


def test_batch_costs_what_its_items_cost(recipients):
    tier = RateTier.objects.create(name="small", requests_per_s=0.001, burst=7)
    api = APIClient(headers={"Authorization": f"Api-Key {make_api_key(make_client(tier=tier.name))}"})
    assert post(api, [item_for(recipients[0]) for _ in range(4)]).status_code == 207
    refused = post(api, [item_for(recipients[0]) for _ in range(4)])
    assert (refused.status_code, refused.json()["type"]) == (429, "/problems/rate-limited")
    assert int(refused["Retry-After"]) > 0
    assert post(api, [item_for(recipients[0]) for _ in range(3)]).status_code == 207
    assert written() == (7, 7, 7)


@pytest.mark.django_db(transaction=True)
def test_same_batch_many_times_at_once_is_written_once(client_row):
    recipients = [RecipientFactory() for _ in range(10)]
    items = [item_for(recipient) for recipient in recipients]
    headers = {"Authorization": f"Api-Key {make_api_key(client_row)}"}
    barrier = threading.Barrier(6)
    answers = []

    def call(order):
        try:
            barrier.wait(5)
            answers.append(results_of(post(APIClient(headers=headers), order)))
        finally:
            connection.close()

    # Both ways round: whoever took keys in the order of the items would wait in a circle.
    threads = [threading.Thread(target=call, args=(items[:: 1 if n % 2 else -1],)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(answers) == 6
    assert {one["status"] for answer in answers for one in answer} <= {200, 202}
    ids = {(one["notification"]["user_id"], one["notification"]["id"]) for answer in answers for one in answer}
    assert len(ids) == 10
    assert written() == (10, 10, 10)


@pytest.mark.django_db(transaction=True)
def test_key_that_another_call_is_just_writing_is_in_progress(client_row, recipients):
    api = APIClient(headers={"Authorization": f"Api-Key {make_api_key(client_row)}"})
    is_held, is_done = threading.Event(), threading.Event()

    def hold():
        try:
            connection.set_autocommit(False)
            IdempotencyKey.objects.create(
                client_id=client_row.id, key="held", created_at="2026-01-01T00:00:00Z", fingerprint=b"x", response=b"{}"
            )
            is_held.set()
            is_done.wait(20)
            connection.rollback()
        finally:
            connection.close()

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert is_held.wait(5)
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = 100")
        results = results_of(post(api, [item_for(recipients[0], "held"), item_for(recipients[1])]))
    finally:
        is_done.set()
        holder.join(5)
    assert {one["problem"]["type"] for one in results} == {"/problems/idempotency-key-in-progress"}
    assert written() == (0, 0, 0)
    assert {one["status"] for one in results_of(post(api, [item_for(recipients[0], "held")]))} == {202}


def test_more_than_a_doorbell_holds_rings_twice(api):
    recipient = RecipientFactory()
    results = results_of(post(api, [item_for(recipient) for _ in range(501)]))
    assert {one["status"] for one in results} == {202}
    assert queued_messages("notif.sms.high") == 2


def test_ordered_items_are_numbered_in_their_order(api, recipients):
    keys = [f"z{9 - number}" for number in range(10)]  # sorted the other way round
    items = [item_for(recipients[0], key, ordering_key="case-7") for key in keys]
    items.insert(3, item_for(recipients[1]))
    results = results_of(post(api, items))
    by_id = {str(row.id): row for row in Delivery.objects.all()}
    rows = [by_id[one["notification"]["deliveries"][0]["id"]] for one in results]
    assert (rows[3].order_hash, rows[3].order_no) == (None, None)
    ordered = rows[:3] + rows[4:]
    assert len({row.order_hash for row in ordered}) == 1
    assert [row.order_no for row in ordered] == sorted(row.order_no for row in ordered)


def test_crowded_queue_is_left_to_the_sweep_but_in_the_high_lane(api, recipients):
    for queue in ("notif.sms.bulk", "notif.sms.high"):
        for _ in range(doorbell.CROWDED + 1):
            doorbell.ring("notify.deliver", [[]], queue)
    wait_for(lambda: doorbell.is_crowded(Channel.SMS, Lane.BULK))
    items = [item_for(recipients[0], priority="bulk"), item_for(recipients[1], priority="high")]
    assert {one["status"] for one in results_of(post(api, items))} == {202}
    assert queued_messages("notif.sms.bulk") == doorbell.CROWDED + 1
    assert queued_messages("notif.sms.high") == doorbell.CROWDED + 2
    bulk, high = Delivery.objects.get(lane=Lane.BULK), Delivery.objects.get(lane=Lane.HIGH)
    assert bulk.ring_at <= timezone.now() < high.ring_at


def test_items_may_have_their_words_from_templates(api, client_row, recipients):
    make_template(client_row)
    context = {"name": "Ann", "total": 5, "link": "https://example.com/1"}
    wanted = {"content": None, "template": "order", "context": context}
    items = [
        item_for(recipients[0], **wanted),
        item_for(recipients[1], **{**wanted, "context": {**context, "name": 7}}),
        item_for(recipients[2], **{**wanted, "template": "nothing"}),
        item_for(recipients[3], **{**wanted, "content": {"body": "both"}}),
        item_for(recipients[4]),
    ]
    results = results_of(post(api, items))
    assert [one["status"] for one in results] == [202, 422, 422, 422, 202]
    pointers = [error["pointer"] for one in results[1:3] for error in one["problem"]["errors"]]
    assert pointers == ["/items/1/context/name", "/items/2/template"]
    assert results[0]["notification"]["deliveries"][0]["segments"] == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("trouble", ["read-only", "disk full"])
def test_database_that_takes_no_writes_is_a_503_and_nothing_is_half_written(
    client_row, recipients, trouble, monkeypatch
):
    monkeypatch.setattr(database, "_disk_full_at", float("-inf"))  # and so it is for the next test
    api = APIClient(headers={"Authorization": f"Api-Key {make_api_key(client_row)}"})
    items = [item_for(recipient) for recipient in recipients]
    assert {one["status"] for one in results_of(post(api, [item_for(recipients[0])]))} == {202}
    with connection.cursor() as cursor:
        if trouble == "read-only":
            cursor.execute("SET default_transaction_read_only = on")
        else:
            cursor.execute(
                "CREATE FUNCTION fill_up() RETURNS trigger LANGUAGE plpgsql AS "
                "$$BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END$$"
            )
            cursor.execute("CREATE TRIGGER full_disk BEFORE INSERT ON delivery FOR EACH ROW EXECUTE FUNCTION fill_up()")
    try:
        for response in (post(api, items), post_single(api, items[0])):
            assert (response.status_code, response.json()["type"]) == (503, "/problems/unavailable")
            assert int(response["Retry-After"]) > 0
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = off")
            cursor.execute("DROP FUNCTION IF EXISTS fill_up CASCADE")
    assert written() == (1, 1, 1)
    assert {one["status"] for one in results_of(post(api, items))} == {202}
