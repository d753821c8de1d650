import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django_redis import get_redis_connection
from pytest_django.fixtures import Settings

from apps.providers import tokens
from apps.providers.grants import AccessToken, Grant, GrantError
from apps.providers.messages import ProviderRequest, ProviderResponse
from apps.providers.registry import get_provider
from apps.providers.tokens import TokenUnavailableError, get_token, invalidate_token
from tests.providers.accounts import NOW
from tests.providers.conftest import StartServer
from tests.providers.wire import Action, Hang, Reply

Configure = Callable[[str], None]
pytestmark = pytest.mark.usefixtures("no_tokens")


class Mint:
    """A grant that makes its own tokens and counts them."""

    def __init__(self, fingerprint: str = "mint", lifetime_s: float = 3_600) -> None:
        self.fingerprint = fingerprint
        self.lifetime_s = lifetime_s
        self.made: list[str] = []
        self.is_broken = False

    def build(self, now: object) -> ProviderRequest | AccessToken:
        if self.is_broken:
            raise GrantError("broken")
        self.made.append(f"{self.fingerprint}-secret-{len(self.made) + 1}")
        return AccessToken(self.made[-1], self.lifetime_s)

    def parse(self, response: ProviderResponse) -> AccessToken:
        raise NotImplementedError


def forget_locally() -> None:
    """What another process, or this one after a restart, knows."""
    tokens._held.clear()


class TestKeeping:
    def test_a_token_is_asked_for_once(self):
        mint = Mint()
        assert {get_token("fcm", mint, NOW) for _ in range(5)} == {"mint-secret-1"}

    def test_other_processes_find_it_in_the_cache(self):
        mint = Mint()
        first = get_token("fcm", mint, NOW)
        forget_locally()
        assert get_token("fcm", mint, NOW) == first
        assert len(mint.made) == 1

    def test_the_cache_holds_ciphertext(self):
        get_token("fcm", Mint(), NOW)
        redis = get_redis_connection("default")
        assert redis.exists("oauth:fcm")
        assert b"secret" not in redis.get("oauth:fcm")
        assert 0 < redis.pttl("oauth:fcm") <= 3_600_000

    def test_another_secret_key_reads_nothing(self, settings: Settings):
        mint = Mint()
        get_token("fcm", mint, NOW)
        forget_locally()
        settings.SECRET_KEY = "another"
        assert get_token("fcm", mint, NOW) == "mint-secret-2"

    def test_other_credentials_do_not_use_it(self):
        get_token("fcm", Mint(), NOW)
        assert get_token("fcm", Mint("other"), NOW) == "other-secret-1"

    def test_rubbish_in_the_cache_is_ignored(self):
        for rubbish in (b"", b"x", b"AAAA", b"A" * 60):
            get_redis_connection("default").set("oauth:fcm", rubbish)
            forget_locally()
            assert get_token("fcm", Mint(), NOW) == "mint-secret-1"


class TestRenewing:
    @pytest.mark.parametrize(
        ("lifetime_s", "age_s", "made"),
        [(3_600, 3_299, 1), (3_600, 3_301, 2), (3_600, 4_000, 2), (60, 44, 1), (60, 46, 2)],
    )
    def test_a_token_is_renewed_before_it_ends(self, lifetime_s: float, age_s: float, made: int):
        mint = Mint(lifetime_s=lifetime_s)
        get_token("fcm", mint, NOW)
        get_token("fcm", mint, NOW + timedelta(seconds=age_s))
        assert len(mint.made) == made

    def test_a_refused_token_is_forgotten_everywhere(self):
        mint = Mint()
        invalidate_token("fcm", mint, get_token("fcm", mint, NOW))
        forget_locally()
        assert get_token("fcm", mint, NOW) == "mint-secret-2"

    def test_a_newer_token_survives_the_refusal_of_an_older(self):
        mint = Mint()
        old = get_token("fcm", mint, NOW)
        invalidate_token("fcm", mint, old)
        newer = get_token("fcm", mint, NOW)
        invalidate_token("fcm", mint, old)
        assert get_token("fcm", mint, NOW) == newer

    def test_many_threads_ask_once(self):
        mint = Mint()
        with ThreadPoolExecutor(8) as pool:
            found = set(pool.map(lambda _: get_token("fcm", mint, NOW), range(40)))
        assert found == {"mint-secret-1"}

    def test_a_process_waits_for_the_one_that_is_renewing(self):
        redis = get_redis_connection("default")
        redis.set("oauth:fcm:lock", "another process", px=10_000)
        mint = Mint()
        held = tokens._Held("theirs", NOW.timestamp() + 100, NOW.timestamp() + 200)
        threading.Timer(0.2, tokens._write_shared, ("fcm", mint, held, NOW.timestamp())).start()
        assert get_token("fcm", mint, NOW) == "theirs"
        assert mint.made == []

    def test_a_good_token_is_used_while_another_process_renews_it(self):
        mint = Mint()
        get_token("fcm", mint, NOW)
        get_redis_connection("default").set("oauth:fcm:lock", "another process", px=10_000)
        assert get_token("fcm", mint, NOW + timedelta(seconds=3_400)) == "mint-secret-1"

    def test_a_good_token_outlives_a_broken_endpoint(self):
        mint = Mint()
        get_token("fcm", mint, NOW)
        mint.is_broken = True
        assert get_token("fcm", mint, NOW + timedelta(seconds=3_400)) == "mint-secret-1"
        with pytest.raises(TokenUnavailableError, match="oauth_broken"):
            get_token("fcm", mint, NOW + timedelta(seconds=3_601))

    def test_a_failed_renewal_does_not_block_the_next(self):
        mint = Mint()
        mint.is_broken = True
        with pytest.raises(TokenUnavailableError):
            get_token("fcm", mint, NOW)
        assert not get_redis_connection("default").exists("oauth:fcm:lock")
        mint.is_broken = False
        assert get_token("fcm", mint, NOW) == "mint-secret-1"


class TestWithoutRedis:
    @pytest.fixture(autouse=True)
    def no_redis(self, no_tokens: None, settings: Settings) -> None:
        settings.CACHES = {
            "default": {**settings.CACHES["default"], "LOCATION": "redis://127.0.0.1:1/0"},
        }

    def test_each_process_asks_for_itself(self):
        mint = Mint()
        assert {get_token("fcm", mint, NOW) for _ in range(3)} == {"mint-secret-1"}
        invalidate_token("fcm", mint, "mint-secret-1")
        assert get_token("fcm", mint, NOW) == "mint-secret-2"


class TestEndpoint:
    def grant(self) -> Grant:
        grant = get_provider("fcm").adapter.grant
        assert grant is not None
        return grant

    def test_a_token_comes_over_verified_tls(self, start_server: StartServer, configure: Configure):
        server = start_server(lambda _: Reply(200, json.dumps({"access_token": "t", "expires_in": 60}).encode()))
        configure(server.origin)
        assert get_token("fcm", self.grant(), NOW) == "t"
        assert len(server.bodies) == 1

    def test_an_unknown_authority_is_not_asked(
        self, start_server: StartServer, configure: Configure, settings: Settings
    ):
        server = start_server(lambda _: Reply(200, b'{"access_token": "t"}'))
        configure(server.origin)
        settings.PROVIDER_CA_FILE = ""
        with pytest.raises(TokenUnavailableError, match="oauth_unreachable"):
            get_token("fcm", self.grant(), NOW)
        assert server.bodies == []

    @pytest.mark.parametrize(
        ("action", "code"),
        [
            (Reply(400, b'{"error": "invalid_grant"}'), "oauth_invalid_grant"),
            (Reply(302, b"", (("location", "https://example.com/"),)), "oauth_302"),
            (Reply(200, b"x" * 100_000), "oauth_unreachable"),
            (Hang(), "oauth_unreachable"),
        ],
    )
    def test_anything_else_gives_no_token(
        self, start_server: StartServer, configure: Configure, action: Action, code: str
    ):
        configure(start_server(lambda _: action).origin)
        with pytest.raises(TokenUnavailableError, match=code):
            get_token("fcm", self.grant(), NOW)
