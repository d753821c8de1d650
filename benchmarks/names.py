"""What the benchmarks' people are called. Standard library only: some contestants run in another environment."""

PREFIX = "bench-"


def user_id_of(number: int) -> str:
    return f"{PREFIX}{number}"


def email_of(number: int) -> str:
    return f"{PREFIX}{number}@example.com"


def token_of(number: int) -> str:
    """A device token of a usual length."""
    return f"bench-device-{number:08d}-" + "e5F6" * 30
