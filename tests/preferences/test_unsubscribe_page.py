import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from urllib.parse import quote

import pytest
from django.db import connection
from django.http import HttpResponse
from django.template.loader import render_to_string
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django_redis import get_redis_connection
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis import Redis
from structlog.testing import capture_logs

from apps.channels import Channel
from apps.preferences import selectors, services, unsubscribe
from apps.preferences.models import Category, Recipient
from apps.preferences.pages import views
from apps.preferences.policy import Action, Decision, Reason, decide
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db

ONE_CLICK = "List-Unsubscribe=One-Click"
FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def person() -> Recipient:
    return RecipientFactory(user_id="user-1", email="ann@example.com")


@pytest.fixture
def browser() -> Client:
    return Client(enforce_csrf_checks=True)


def make_path(
    user_id: str = "user-1",
    *,
    category: str = "marketing",
    channel: Channel = Channel.EMAIL,
    now: datetime | None = None,
) -> str:
    url = unsubscribe.make_url(user_id=user_id, channel=channel, category=category, now=now or datetime.now(UTC))
    return "/u/" + url.rpartition("/")[2]


def decision(category: str = "marketing", channel: Channel = Channel.EMAIL, user_id: str = "user-1") -> Decision:
    """What dispatch would decide now."""
    versions = {name: version for name, (_, version) in selectors.select_versions([user_id]).items()}
    snapshot = selectors.load_snapshots(versions)[user_id]
    return decide(snapshot, channel, selectors.load_categories((category,))[category], datetime.now(UTC))


def click(browser: Client, path: str) -> HttpResponse:
    return browser.generic("POST", path, ONE_CLICK, FORM)


def choose(browser: Client, path: str, scope: str) -> HttpResponse:
    response = browser.post(path, {"scope": scope})
    assert (response.status_code, response["Location"]) == (303, path)
    return browser.get(path)


def text_of(response: HttpResponse) -> str:
    html = re.sub(r"<style>.*?</style>", "", response.content.decode(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def scopes_of(response: HttpResponse) -> list[str]:
    return re.findall(r'name="scope" value="(\w+)"', response.content.decode())


# --- one click --------------------------------------------------------------------------------------------------------


def test_one_click_unsubscribes_from_the_category_at_once(person: Recipient, browser: Client) -> None:
    assert decision().action is Action.SEND
    response = click(browser, make_path())
    assert (response.status_code, response.content) == (200, b"Unsubscribed.\n")
    assert decision() == Decision(Action.SUPPRESS, Reason.CATEGORY_OPT_OUT)
    assert decision("transactional").action is Action.SEND
    assert decision(channel=Channel.SMS).action is Action.SEND


def test_one_click_may_come_as_multipart(person: Recipient, browser: Client) -> None:
    assert browser.post(make_path(), {"List-Unsubscribe": "One-Click"}).status_code == 200
    assert decision().reason is Reason.CATEGORY_OPT_OUT


@pytest.mark.parametrize("content_type", ["", "text/plain", f"{FORM}; charset=UTF-8", "application/octet-stream"])
def test_one_click_is_understood_under_any_content_type(person: Recipient, browser: Client, content_type: str) -> None:
    assert browser.generic("POST", make_path(), ONE_CLICK, content_type).status_code == 200
    assert decision().reason is Reason.CATEGORY_OPT_OUT


def test_one_click_twice_is_one_click(person: Recipient, browser: Client) -> None:
    path = make_path()
    click(browser, path)
    version = Recipient.objects.get(user_id="user-1").version
    assert click(browser, path).status_code == 200
    assert Recipient.objects.get(user_id="user-1").version == version


def test_one_click_needs_and_sets_no_cookie(person: Recipient, browser: Client) -> None:
    for response in (click(browser, make_path()), browser.get(make_path())):
        assert not response.cookies
        assert "Cookie" not in response.get("Vary", "")


def test_one_click_on_a_category_that_has_gone_is_a_word_on_the_default(person: Recipient, browser: Client) -> None:
    assert click(browser, make_path(category="gone")).status_code == 200
    assert decision("").reason is Reason.CATEGORY_OPT_OUT
    assert decision("marketing").action is Action.SEND


def test_one_click_on_a_retired_category_counts(person: Recipient, browser: Client) -> None:
    Category.objects.filter(key="marketing").update(is_active=False)
    assert click(browser, make_path()).status_code == 200
    assert decision().reason is Reason.CATEGORY_OPT_OUT


def test_one_click_outweighs_an_earlier_yes(person: Recipient, browser: Client) -> None:
    services.update_preferences(user_id="user-1", categories={"marketing": {Channel.EMAIL: True}})
    click(browser, make_path())
    assert decision().reason is Reason.CATEGORY_OPT_OUT


def test_a_choice_is_logged_by_ids_only(person: Recipient, browser: Client, django_capture_on_commit_callbacks) -> None:
    with capture_logs() as lines, django_capture_on_commit_callbacks(execute=True):
        click(browser, make_path())
    (line,) = [line for line in lines if line["event"] == "subscription_choice"]
    assert {name: line[name] for name in ("user_id", "channel", "category", "scope", "source", "has_changed")} == {
        "user_id": "user-1",
        "channel": "email",
        "category": "marketing",
        "scope": "category",
        "source": "one_click",
        "has_changed": True,
    }
    assert "example.com" not in str(line)


def test_what_a_choice_changed_is_on_record_and_what_changed_nothing_is_not(person: Recipient, browser: Client) -> None:
    path = make_path()
    click(browser, path)
    click(browser, path)
    choose(browser, path, "resubscribe")
    records = person.choices.order_by("id").values_list("scope", "source", "channel", "category")
    assert list(records) == [
        ("category", "one_click", Channel.EMAIL, "marketing"),
        ("resubscribe", "unsubscribe_page", Channel.EMAIL, "marketing"),
    ]


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "head"])
def test_looking_changes_nothing(person: Recipient, browser: Client, method: str) -> None:
    before = Recipient.objects.values().get(user_id="user-1")
    with CaptureQueriesContext(connection) as queries:
        for query in ("", "?scope=all", f"?{ONE_CLICK}"):
            assert getattr(browser, method)(make_path() + query).status_code == 200
    assert not [sql["sql"] for sql in queries if not sql["sql"].lstrip().startswith("SELECT")]
    assert Recipient.objects.values().get(user_id="user-1") == before
    assert decision().action is Action.SEND


@pytest.mark.parametrize("method", ["put", "patch", "delete", "options"])
def test_other_methods_are_refused(person: Recipient, browser: Client, method: str) -> None:
    response = getattr(browser, method)(make_path())
    assert (response.status_code, response["Allow"]) == (405, "GET, HEAD, POST")
    assert decision().action is Action.SEND


def test_the_page_offers_every_way_out(person: Recipient, browser: Client) -> None:
    response = browser.get(make_path())
    assert scopes_of(response) == ["category", "channel", "all"]
    assert "You get “Marketing” emails at a•••@example.com ." in text_of(response)
    assert "ann@" not in response.content.decode()
    assert "user-1" not in response.content.decode()


def test_leaving_the_category_and_coming_back(person: Recipient, browser: Client) -> None:
    path = make_path()
    left = choose(browser, path, "category")
    assert "You no longer get “Marketing” emails at a•••@example.com ." in text_of(left)
    assert scopes_of(left) == ["resubscribe", "channel", "all"]
    assert decision().reason is Reason.CATEGORY_OPT_OUT
    assert scopes_of(choose(browser, path, "resubscribe")) == ["category", "channel", "all"]
    assert decision().action is Action.SEND


def test_leaving_the_channel_and_coming_back(person: Recipient, browser: Client) -> None:
    services.update_preferences(user_id="user-1", categories={"critical": {Channel.EMAIL: True}})
    path = make_path()
    left = choose(browser, path, "channel")
    assert "You are unsubscribed from all emails" in text_of(left)
    assert scopes_of(left) == ["resubscribe", "all"]
    for category in ("", "marketing", "transactional", "critical"):
        assert decision(category).reason is Reason.CHANNEL_OPT_OUT
        assert decision(category, Channel.SMS).action is Action.SEND
    choose(browser, path, "resubscribe")
    assert decision("transactional").action is Action.SEND


def test_leaving_everything_and_coming_back(person: Recipient, browser: Client) -> None:
    path = make_path()
    left = choose(browser, path, "all")
    assert "You are unsubscribed from everything" in text_of(left)
    assert scopes_of(left) == ["resubscribe"]
    for channel in Channel:
        assert decision("critical", channel).reason is Reason.GLOBAL_OPT_OUT
    choose(browser, path, "resubscribe")
    assert decision("critical", Channel.PUSH).action is Action.SEND


def test_a_suppressed_address_is_told_and_stays_suppressed(person: Recipient, browser: Client) -> None:
    services.suppress_address(channel=Channel.EMAIL, user_id="user-1", source="sendgrid", reason="complained")
    path = make_path()
    assert "We cannot send emails to this address" in text_of(browser.get(path))
    choose(browser, path, "resubscribe")
    assert decision().reason is Reason.ADDRESS_SUPPRESSED


def test_a_link_in_an_old_mailbox_does_not_tell_of_the_new_address(person: Recipient, browser: Client) -> None:
    path = make_path(now=datetime.now(UTC) - timedelta(days=1))
    services.upsert_recipient(user_id="user-1", email="zoe@example.net")
    response = browser.get(path)
    assert response.status_code == 200
    assert "example.net" not in response.content.decode()


def test_a_person_without_an_address_can_still_choose(browser: Client) -> None:
    RecipientFactory(user_id="user-1", email=None)
    path = make_path()
    assert "You get “Marketing” emails." in text_of(browser.get(path)).replace(" .", ".")
    choose(browser, path, "category")


@pytest.mark.parametrize(("channel", "noun"), [(Channel.SMS, "text messages"), (Channel.PUSH, "push notifications")])
def test_other_channels_have_their_own_words(person: Recipient, browser: Client, channel: Channel, noun: str) -> None:
    path = make_path(channel=channel)
    assert f"Stop all {noun}" in text_of(browser.get(path))
    choose(browser, path, "channel")
    assert decision(channel=channel).reason is Reason.CHANNEL_OPT_OUT
    assert decision().action is Action.SEND


def test_a_categorys_name_is_shown_as_text(person: Recipient, browser: Client) -> None:
    Category.objects.filter(key="marketing").update(name="<script>x</script>", description="<b>y</b>")
    html = browser.get(make_path()).content.decode()
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert "<b>" not in html


def test_the_page_keeps_to_itself(person: Recipient, browser: Client) -> None:
    path = make_path()
    for response in (browser.get(path), browser.post(path), browser.get("/u/x"), click(browser, path)):
        assert response["Cache-Control"] == "no-store"
        assert response["Referrer-Policy"] == "no-referrer"
        assert response["X-Robots-Tag"] == "noindex, nofollow"
        assert response["X-Frame-Options"] == "DENY"
    page = browser.get(path)
    assert page["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert not re.findall(r"""(?:src|href)\s*=|@import|url\(""", page.content.decode())


class Outline(HTMLParser):
    """What a screen reader goes by."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.mark.parametrize("scope", [None, "category", "channel", "all"])
def test_every_state_of_the_page_is_well_formed_for_screen_readers(
    person: Recipient, browser: Client, scope: str | None
) -> None:
    path = make_path()
    response = choose(browser, path, scope) if scope else browser.get(path)
    outline = Outline()
    outline.feed(response.content.decode())
    assert ("html", {"lang": "en"}) in outline.tags
    assert [outline.count(tag) for tag in ("h1", "main", "title", "form")] == [1, 1, 1, 1]
    ids = {attrs["id"] for _, attrs in outline.tags if "id" in attrs}
    described = {attrs["aria-describedby"] for _, attrs in outline.tags if "aria-describedby" in attrs}
    assert described == ids


def luminance(colour: str) -> float:
    """Relative luminance of ``#rgb`` or ``#rrggbb`` (WCAG 2.2)."""
    digits = colour.lstrip("#")
    digits = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
    channels = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("front", "back", "least"),
    [
        ("ink", "card", 7.0),
        ("soft", "card", 4.5),
        ("accent", "card", 4.5),
        ("on-accent", "accent", 4.5),
        ("on-note", "note", 4.5),
        ("line", "card", 3.0),
    ],
)
def test_colours_have_the_contrast_wcag_asks_for(scheme: int, front: str, back: str, least: float) -> None:
    css = render_to_string("unsubscribe/page.css")
    palette = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+);", css.split(":root {")[scheme + 1]))
    lighter, darker = sorted((luminance(palette[front]), luminance(palette[back])), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= least


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["", "scope=", "scope=everything", "List-Unsubscribe=1", "x=1", "scope", "\0", "{}"])
def test_a_post_that_asks_for_nothing_changes_nothing_and_says_so(
    person: Recipient, browser: Client, body: str
) -> None:
    response = browser.generic("POST", make_path(), body, FORM)
    assert response.status_code == 400
    assert "Nothing was changed" in text_of(response)
    assert scopes_of(response) == ["category", "channel", "all"]
    assert decision().action is Action.SEND


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (FORM, ONE_CLICK + "&x=" + "x" * views.MAX_BODY_BYTES),
        (FORM, "&".join(f"x{n}" for n in range(1_500))),
        (f"{FORM}; charset=utf-16", ONE_CLICK),
        ("multipart/form-data", "x"),
        ("multipart/form-data; boundary=", "--"),
        ("multipart/form-data; boundary=é", "x"),
        ("multipart/form-data; boundary=x; charset=nope", "--x\r\nContent-Disposition: form-data\r\n\r\n--x--"),
        ("application/json", '{"scope": "all"}'),
    ],
)
def test_a_strange_body_is_never_an_error_of_ours(
    person: Recipient, browser: Client, content_type: str, body: str
) -> None:
    response = browser.generic("POST", make_path(), body, content_type)
    assert response.status_code in {200, 400}
    assert decision().action is (Action.SEND if response.status_code == 400 else Action.SUPPRESS)


def test_an_expired_link_gets_a_friendly_410(person: Recipient, browser: Client) -> None:
    path = make_path(now=datetime.now(UTC) - timedelta(days=91))
    for response in (browser.get(path), click(browser, path)):
        assert response.status_code == 410
        assert "This link no longer works" in text_of(response)
    assert decision().action is Action.SEND


@pytest.mark.parametrize("path", ["/u/", "/u/x", "/u/a/b/c", "/u/%20", "/u/1" + "A" * 5_000, "/u/é", "/u/%F0%9F%98%80"])
def test_a_mangled_link_gets_a_friendly_404(browser: Client, path: str) -> None:
    for response in (browser.get(path), click(browser, path)):
        assert response.status_code == 404
        assert "This link does not work" in text_of(response)


def test_a_forged_link_gets_a_friendly_404(person: Recipient, browser: Client) -> None:
    path = make_path()
    forged = path[:-1] + ("A" if path[-1] != "A" else "B")
    assert click(browser, forged).status_code == 404
    assert decision().action is Action.SEND


@given(st.text(min_size=1, max_size=200))
@example("../u/")
@example("\r\nSet-Cookie: x=1")
@hypothesis_settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_follows_is_answered_in_kind(browser: Client, text: str) -> None:
    get_redis_connection("default").flushdb()
    path = "/u/" + quote(text.encode(errors="replace"), safe="")
    for response in (browser.get(path), click(browser, path)):
        assert 400 <= response.status_code < 500


def test_an_erased_persons_link_looks_like_an_expired_one(person: Recipient, browser: Client) -> None:
    path = make_path()
    services.erase_recipient(user_id="user-1")
    answers = [browser.get(path), click(browser, path), browser.post(path, {"scope": "all"})]
    assert [answer.status_code for answer in answers] == [410, 410, 410]
    expired = browser.get(make_path(now=datetime.now(UTC) - timedelta(days=91)))
    assert all(answer.content == expired.content for answer in answers)


def test_a_person_nobody_knows_is_answered_like_an_erased_one(browser: Client) -> None:
    assert browser.get(make_path("nobody")).status_code == 410
    assert click(browser, make_path("nobody")).status_code == 410


# --- limits and outages -----------------------------------------------------------------------------------------------


def test_guessing_is_slowed_down_for_this_address_only(person: Recipient, browser: Client) -> None:
    guesses = views.ADDRESS_BURST // views.INVALID_LINK_COST
    statuses = [browser.get("/u/guess").status_code for _ in range(guesses + 5)]
    assert statuses[:guesses] == [404] * guesses
    assert 429 in statuses
    refused = browser.get("/u/guess")
    if refused.status_code == 429:
        assert int(refused["Retry-After"]) >= 1
    assert browser.get("/u/guess", REMOTE_ADDR="198.51.100.7").status_code == 404


def test_a_good_link_in_one_click_passes_whatever_its_address_did(person: Recipient, browser: Client) -> None:
    statuses = [browser.get("/u/guess").status_code for _ in range(60)]
    assert statuses[-1] == 429
    assert click(browser, make_path()).status_code == 200


def test_one_link_cannot_be_hammered(person: Recipient, browser: Client) -> None:
    path = make_path()
    statuses = [click(browser, path).status_code for _ in range(views.LINK_BURST + 5)]
    assert statuses[: views.LINK_BURST] == [200] * views.LINK_BURST
    assert statuses[-1] == 429
    assert click(browser, make_path(category="")).status_code == 200


def test_neighbours_in_an_ipv6_network_share_a_limit_and_no_address_is_a_key(browser: Client, redis: Redis) -> None:
    for remote in ("2001:db8::1", "2001:db8::2", "203.0.113.9", ""):
        browser.get("/u/guess", REMOTE_ADDR=remote)
    keys = [key.decode() for key in redis.keys("bucket:unsubscribe:*")]
    assert len(keys) == 3
    assert not any("2001" in key or "203.0" in key for key in keys)


@contextmanager
def locked(user_id: str) -> Iterator[None]:
    """Somebody else holds the recipient's row."""
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute("SELECT 1 FROM preferences_recipient WHERE user_id = %s FOR UPDATE", [user_id])
            yield
    finally:
        other.close()


@pytest.mark.django_db(transaction=True)
def test_a_store_that_does_not_answer_is_a_friendly_503(person: Recipient, browser: Client) -> None:
    path = make_path()
    with locked("user-1"), connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = 50")
        try:
            response = click(browser, path)
        finally:
            cursor.execute("RESET lock_timeout")
    assert response.status_code == 503
    assert "Please try again" in text_of(response)
    assert int(response["Retry-After"]) > 0
    assert decision().action is Action.SEND
    assert click(browser, path).status_code == 200
    assert decision().reason is Reason.CATEGORY_OPT_OUT
