import json

import pytest

from apps.providers.sandbox.ledger import Ledger, hash_address


def append(ledger: Ledger, delivery_id: str) -> int:
    return ledger.append(
        at_ms=1,
        provider="fcm",
        delivery_id=delivery_id,
        message_id="m" * (int(delivery_id) % 50),  # lines of different lengths
        address_sha256=hash_address("device"),
        size=10,
    )


def numbers(content: bytes) -> list[int]:
    return [json.loads(line)["n"] for line in content.splitlines()]


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    yield ledger
    ledger.close()


def test_numbers_count_from_one_without_gaps(ledger):
    assert [append(ledger, str(number)) for number in range(5)] == [1, 2, 3, 4, 5]
    assert numbers(ledger.read(after=0, limit=100)) == [1, 2, 3, 4, 5]


def test_reads_on_from_any_number(ledger):
    for number in range(500):
        append(ledger, str(number))
    for after in range(0, 501, 7):
        assert numbers(ledger.read(after=after, limit=3)) == [n for n in (after + 1, after + 2, after + 3) if n <= 500]
    assert ledger.read(after=500, limit=3) == b""
    assert ledger.read(after=10_000, limit=3) == b""


def test_an_empty_ledger_reads_empty(ledger):
    assert ledger.read(after=0, limit=10) == b""


def test_nothing_is_on_disk_before_a_flush_and_all_of_it_after(ledger, tmp_path):
    append(ledger, "1")
    assert (tmp_path / "ledger.jsonl").read_bytes() == b""
    ledger.flush()
    assert numbers((tmp_path / "ledger.jsonl").read_bytes()) == [1]


def test_numbering_goes_on_after_a_restart(tmp_path):
    first = Ledger(tmp_path / "ledger.jsonl", is_fsynced=True)
    append(first, "1")
    first.close()
    second = Ledger(tmp_path / "ledger.jsonl")
    assert append(second, "2") == 2
    assert numbers(second.read(after=0, limit=10)) == [1, 2]
    second.close()


def test_a_torn_last_line_is_cut_off(tmp_path):
    path = tmp_path / "ledger.jsonl"
    first = Ledger(path)
    append(first, "1")
    first.close()
    with path.open("ab") as file:
        file.write(b'{"n":2,"at"')
    second = Ledger(path)
    assert append(second, "2") == 2
    assert numbers(second.read(after=0, limit=10)) == [1, 2]
    second.close()


def test_clear_starts_over(ledger):
    append(ledger, "1")
    ledger.flush()
    ledger.clear()
    assert append(ledger, "2") == 1
    assert numbers(ledger.read(after=0, limit=10)) == [1]


def test_a_full_disk_keeps_what_is_pending(ledger, capsys, monkeypatch):
    def refuse(descriptor: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    append(ledger, "1")
    with monkeypatch.context() as patch:
        patch.setattr("os.write", refuse)  # the disk is the wire here
        ledger.flush()
        ledger.flush()
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert numbers(ledger.read(after=0, limit=10)) == [1]
