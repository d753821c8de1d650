"""The race this design is about: whatever Redis holds, loses or brings back, a decision made with a version read
after an opt-out was answered obeys it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import permutations
from types import SimpleNamespace

import pytest
from django.db import connection
from pytest_django import DjangoAssertNumQueries, DjangoCaptureOnCommitCallbacks
from pytest_django.fixtures import Settings
from redis import Redis

from apps.channels import Channel
from apps.preferences import cache, flights, loading, selectors, services
from apps.preferences.categories import DEFAULT_RULES
from apps.preferences.policy import Action, Reason, decide
from apps.preferences.snapshots import RecipientSnapshot
from tests.preferences.factories import RecipientFactory

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def read_versions(*user_ids: str) -> dict[str, int]:
    return {user_id: version for user_id, (_, version) in selectors.select_versions(user_ids).items()}


def load_one(user_id: str = "u") -> RecipientSnapshot:
    return selectors.load_snapshots(read_versions(user_id))[user_id]


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_cached_snapshot_is_the_one_that_was_read(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    RecipientFactory(
        user_id="u", devices=["t-1", ("t-2", "ios")], channels={Channel.SMS: False}, is_opted_out=True, phone=None
    )
    services.suppress_address(channel=Channel.EMAIL, user_id="u", source="sendgrid", reason="bounced")
    versions = read_versions("u")
    cold = selectors.load_snapshots(versions)
    with django_assert_num_queries(0):
        warm = selectors.load_snapshots(versions)
    assert warm == cold
    assert warm["u"].suppressed_channels == {Channel.EMAIL}
    assert [device.platform for device in warm["u"].devices] == ["android", "ios"]


@pytest.mark.django_db
def test_cold_batch_takes_two_queries(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    user_ids = [RecipientFactory().user_id for _ in range(5)]
    with django_assert_num_queries(1):
        versions = read_versions(*user_ids, "nobody")
    with django_assert_num_queries(2):
        snapshots = selectors.load_snapshots(versions | {"nobody": 1})
    assert sorted(snapshots) == sorted(user_ids)


@pytest.mark.django_db
def test_blobs_live_a_day_under_the_agreed_keys_and_hold_nothing_in_clear(redis: Redis) -> None:
    RecipientFactory(user_id="u", email="annabel@example.com", phone="+15005550006", devices=["a-secret-token"])
    load_one()
    assert {key.decode() for key in redis.scan_iter() if not key.startswith(b"load:")} == {"pref:u", "tokens:u"}
    for key in (b"pref:u", b"tokens:u"):
        assert 86_300 < redis.ttl(key) <= 86_400
        for secret in (b"annabel", b"5005550006", b"a-secret-token"):
            assert secret not in redis.get(key)


def test_empty_batch_asks_nobody(redis: Redis) -> None:
    assert selectors.load_snapshots({}) == {}
    assert selectors.select_versions([]) == {}


# --- what counts ------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_blob_of_another_version_does_not_count() -> None:
    RecipientFactory(user_id="u")
    snapshot = load_one()
    assert cache.read_snapshots({"u": snapshot.version}) == {"u": snapshot}
    assert cache.read_snapshots({"u": snapshot.version + 1}) == {}
    assert cache.read_snapshots({"u": snapshot.version - 1}) == {}


@pytest.mark.parametrize("key", ["pref:u", "tokens:u"])
@pytest.mark.parametrize(
    "damage", [b"", b"\x00", b"garbage that is long enough", "truncated", "wrong type", "other format"]
)
@pytest.mark.django_db
def test_damaged_blob_is_read_again_from_the_database(redis: Redis, key: str, damage: bytes | str) -> None:
    RecipientFactory(user_id="u")
    snapshot = load_one()
    blob = redis.get(key)
    match damage:
        case "truncated":
            redis.set(key, blob[:-1])
        case "wrong type":
            redis.set(key, blob[:9] + b"\xc0")
        case "other format":
            redis.set(key, blob[:8] + b"\xff" + blob[9:])
        case _:
            redis.set(key, damage)
    assert load_one() == snapshot
    if damage == "other format":
        assert redis.get(key) == blob


@pytest.mark.django_db
def test_older_blob_never_replaces_a_newer_one() -> None:
    RecipientFactory(user_id="u")
    old = load_one()
    services.update_preferences(user_id="u", is_opted_out=True)
    new = load_one()
    cache.write_snapshots([old])
    assert cache.read_snapshots({"u": new.version}) == {"u": new}
    assert cache.read_snapshots({"u": old.version}) == {}


@pytest.mark.django_db
def test_write_drops_what_was_cached_after_the_commit(
    redis: Redis, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    RecipientFactory(user_id="u")
    load_one()
    with django_capture_on_commit_callbacks(execute=True):
        services.update_preferences(user_id="u", is_opted_out=True)
        assert redis.exists("pref:u", "tokens:u") == 2
    assert redis.exists("pref:u", "tokens:u") == 0


@pytest.mark.django_db
def test_batches_larger_than_one_script_call_are_cached_whole() -> None:
    snapshots = [RecipientSnapshot(recipient_id=n, user_id=f"u{n}", version=1) for n in range(601)]
    cache.write_snapshots(snapshots)
    assert len(cache.read_snapshots({f"u{n}": 1 for n in range(601)})) == 601


# --- many at once -----------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is read from PostgreSQL: the real reads go on, each is noted."""
    noted: list[list[str]] = []
    real = loading._read_snapshots
    monkeypatch.setattr(loading, "_read_snapshots", lambda user_ids: noted.append(user_ids) or real(user_ids))
    return noted


def in_threads(count: int, call: Callable[[], object]) -> list[object]:
    """What ``call`` returns or raises in each of ``count`` threads that begin together."""
    barrier, results = threading.Barrier(count), []

    def run() -> None:
        try:
            barrier.wait(10)
            results.append(call())
        except Exception as error:
            results.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


@pytest.mark.django_db(transaction=True)
def test_threads_that_miss_together_read_once(reads: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    RecipientFactory(user_id="u")
    versions, count = read_versions("u"), 12
    waiting = threading.Semaphore(0)
    real_wait, real_read = flights.Flight.wait, loading._read_snapshots

    def wait(flight: flights.Flight, timeout_s: float) -> object:
        waiting.release()
        return real_wait(flight, 30)

    def read(user_ids: list[str]) -> object:
        for _ in range(count - 1):  # until everybody else has missed and waits
            assert waiting.acquire(timeout=30)
        return real_read(user_ids)

    monkeypatch.setattr(flights.Flight, "wait", wait)
    monkeypatch.setattr(loading, "_read_snapshots", read)
    snapshots = in_threads(count, lambda: selectors.load_snapshots(versions)["u"])
    assert len(snapshots) == count
    assert len(set(map(id, snapshots))) == 1
    assert reads == [["u"]]


@pytest.mark.django_db(transaction=True)
def test_read_that_fails_is_done_by_those_who_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    RecipientFactory(user_id="u")
    versions, has_failed = read_versions("u"), threading.Event()
    real = loading._read_snapshots

    def fail_once(user_ids: list[str]) -> object:
        if not has_failed.is_set():
            has_failed.set()
            raise RuntimeError("the first read fails")
        return real(user_ids)

    monkeypatch.setattr(loading, "_read_snapshots", fail_once)
    results = in_threads(4, lambda: selectors.load_snapshots(versions)["u"].user_id)
    assert sorted(map(str, results)) == ["the first read fails", "u", "u", "u"]
    assert loading._flights._by_key == {}


@pytest.mark.django_db
def test_another_s_read_from_before_the_change_does_not_count(reads: list[list[str]]) -> None:
    RecipientFactory(user_id="u")
    (mine, _) = loading._flights.board(["u"])
    old = loading._read_snapshots(["u"])
    services.update_preferences(user_id="u", is_opted_out=True)
    versions = read_versions("u")
    _, others = loading._flights.board(["u"])
    loading._flights.land(mine, old)
    assert others["u"].wait(0) is old["u"]
    reads.clear()
    real_board = loading._flights.board
    loading._flights.board = lambda keys: ([], others)  # a caller that missed while the old read was on its way
    try:
        assert selectors.load_snapshots(versions)["u"].is_opted_out
    finally:
        loading._flights.board = real_board
    assert reads == [["u"]]


@pytest.mark.django_db
def test_read_that_another_process_has_begun_is_waited_for(
    redis: Redis, reads: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    RecipientFactory(user_id="u")
    versions = read_versions("u")
    others = loading._read_snapshots(["u"])
    reads.clear()
    assert cache.find_being_loaded(versions) == []
    # The other process writes while this one waits for the first time.
    clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: cache.write_snapshots(others.values()))
    monkeypatch.setattr(cache, "time", clock)
    assert selectors.load_snapshots(versions) == others
    assert reads == []


@pytest.mark.django_db
def test_read_that_another_process_has_begun_and_never_ends_costs_a_moment(reads: list[list[str]]) -> None:
    RecipientFactory(user_id="u")
    versions = read_versions("u")
    assert cache.find_being_loaded(versions) == []
    started = time.monotonic()
    assert selectors.load_snapshots(versions)["u"].user_id == "u"
    assert time.monotonic() - started < 0.5
    assert reads == [["u"]]


@pytest.mark.django_db
def test_read_announced_for_an_older_version_holds_nobody_up(reads: list[list[str]]) -> None:
    RecipientFactory(user_id="u")
    cache.find_being_loaded(read_versions("u"))
    services.update_preferences(user_id="u", is_opted_out=True)
    assert cache.find_being_loaded(read_versions("u")) == []


# --- the race ---------------------------------------------------------------------------------------------------------

SLOW_READER = ("reader reads versions", "reader reads rows", "reader writes cache")
WRITER = ("opt-out is committed", "opt-out tidies cache")
SENDER = ("sender reads versions", "sender decides")


def _interleavings() -> Iterator[tuple[str, ...]]:
    """Every order of all steps that keeps the order within reader, writer and sender: 7!/(3!·2!·2!) = 210."""
    actors = "RRRWWSS"
    for order in sorted(set(permutations(actors))):
        steps = {"R": iter(SLOW_READER), "W": iter(WRITER), "S": iter(SENDER)}
        yield tuple(next(steps[actor]) for actor in order)


@pytest.mark.parametrize(
    ("is_warm", "flush_before", "stride"),
    [(False, None, 1), (True, None, 1), (True, SLOW_READER[2], 5), (True, SENDER[0], 5), (True, SENDER[1], 5)],
)
@pytest.mark.django_db
def test_opt_out_is_obeyed_in_every_interleaving(
    redis: Redis,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
    is_warm: bool,
    flush_before: str | None,
    stride: int,
) -> None:
    RecipientFactory(user_id="u")
    orders = list(_interleavings())
    assert len(orders) == 210
    for order in orders[::stride]:
        redis.flushdb()
        services.update_preferences(user_id="u", is_opted_out=False)
        if is_warm:
            load_one()
        state: dict[str, object] = {}
        for step in order:
            if step == flush_before:
                redis.flushdb()
            _take(step, state, django_capture_on_commit_callbacks)
        decision = decide(state["sender's snapshot"], Channel.EMAIL, DEFAULT_RULES, NOW)  # type: ignore[arg-type]
        must_obey = order.index(WRITER[0]) < order.index(SENDER[0])
        assert not must_obey or decision.reason is Reason.GLOBAL_OPT_OUT, order
        assert decide(load_one(), Channel.EMAIL, DEFAULT_RULES, NOW).action is Action.SUPPRESS, order


def _take(step: str, state: dict, capture_on_commit: Callable[..., object]) -> None:
    match step:
        case "reader reads versions":
            state["reader's versions"] = read_versions("u")
        case "reader reads rows":
            # The two halves of load_snapshots, to put the others' steps between them.
            state["read"] = loading._read_snapshots(["u"])
        case "reader writes cache":
            cache.write_snapshots(state["read"].values())
        case "opt-out is committed":
            with capture_on_commit(execute=False) as callbacks:
                services.update_preferences(user_id="u", is_opted_out=True)
            state["callbacks"] = callbacks
        case "opt-out tidies cache":
            for callback in state["callbacks"]:
                callback()
        case "sender reads versions":
            state["sender's versions"] = read_versions("u")
        case "sender decides":
            state["sender's snapshot"] = selectors.load_snapshots(state["sender's versions"])["u"]


@pytest.mark.django_db(transaction=True)
def test_opt_out_is_obeyed_while_readers_and_flushes_race(redis: Redis) -> None:
    RecipientFactory(user_id="u")
    is_over = threading.Event()
    errors: list[BaseException] = []

    def keep_doing(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            try:
                while not is_over.is_set():
                    call()
            except BaseException as error:
                errors.append(error)
            finally:
                connection.close()

        return run

    others = [keep_doing(load_one), keep_doing(load_one), keep_doing(redis.flushdb)]
    threads = [threading.Thread(target=run) for run in others]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            services.update_preferences(user_id="u", is_opted_out=True)
            assert decide(load_one(), Channel.EMAIL, DEFAULT_RULES, NOW).reason is Reason.GLOBAL_OPT_OUT
            services.update_preferences(user_id="u", is_opted_out=False)
            assert decide(load_one(), Channel.EMAIL, DEFAULT_RULES, NOW).reason is Reason.ALLOWED
    finally:
        is_over.set()
        for thread in threads:
            thread.join(30)
    assert errors == []


# --- Redis away -------------------------------------------------------------------------------------------------------


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The URL of a server that takes connections and never says a word: a stopped Redis."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def _point_cache_at(settings: Settings, url: str) -> None:
    settings.CACHES = {"default": settings.CACHES["default"] | {"LOCATION": url}}


@pytest.mark.django_db
def test_absent_redis_costs_nothing_but_time(settings: Settings) -> None:
    RecipientFactory(user_id="u")
    _point_cache_at(settings, "redis://127.0.0.1:1/0")
    assert decide(load_one(), Channel.EMAIL, DEFAULT_RULES, NOW).action is Action.SEND
    services.update_preferences(user_id="u", is_opted_out=True)
    assert decide(load_one(), Channel.EMAIL, DEFAULT_RULES, NOW).reason is Reason.GLOBAL_OPT_OUT


@pytest.mark.django_db
def test_silent_redis_is_waited_for_once_and_briefly(settings: Settings, silent_server: str) -> None:
    RecipientFactory(user_id="u")
    _point_cache_at(settings, silent_server)
    started = time.monotonic()
    assert load_one().user_id == "u"
    waited_s = time.monotonic() - started
    assert waited_s < 0.75  # one time-out of 0.5 s
    started = time.monotonic()
    for _ in range(3):
        load_one()
        cache.forget_snapshots(["u"])
    assert time.monotonic() - started < 0.25


@pytest.mark.django_db
def test_redis_that_came_back_is_used_again(settings: Settings, redis: Redis) -> None:
    RecipientFactory(user_id="u")
    url = settings.CACHES["default"]["LOCATION"]
    _point_cache_at(settings, "redis://127.0.0.1:1/0")
    load_one()
    assert cache.availability.is_away()
    _point_cache_at(settings, url)
    load_one()
    assert redis.exists("pref:u") == 0
    deadline = time.monotonic() + 5
    while cache.availability.is_away():
        assert time.monotonic() < deadline
    load_one()
    assert redis.exists("pref:u") == 1


@pytest.mark.django_db
def test_redis_restarted_between_two_calls_is_no_error(redis: Redis) -> None:
    RecipientFactory(user_id="u")
    load_one()
    redis.client_kill_filter(_type="normal", skipme=False)
    assert load_one().user_id == "u"
