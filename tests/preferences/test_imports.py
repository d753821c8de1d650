"""Importing recipients from files: what is loaded, what is listed as bad, and that an interruption loses nothing."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from apps.channels import Channel
from apps.preferences import imports, selectors, services
from apps.preferences.import_formats import Format, InvalidFile, read_csv_item, read_header
from apps.preferences.import_framing import BEGINNING, MAX_RECORD_BYTES, read_blocks
from apps.preferences.import_progress import Progress
from apps.preferences.imports import Plan, import_file
from apps.preferences.models import CategoryPreference, ChannelPreference, Device, QuietHours, Recipient
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db

HEADER = "user_id,email,phone,locale,time_zone\n"


def read_rejects(path: Path) -> list[tuple[int, str, str]]:
    header, *rows = csv.reader(StringIO(path.read_text()))
    assert header == ["line", "field", "reason"]
    return [(int(line), field, reason) for line, field, reason in rows]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Imports a text or bytes; the account and the list of rejects as (line, field, reason)."""

    def run(content: str | bytes, suffix: str = "csv", **options: Any) -> dict[str, Any]:
        file = tmp_path / f"recipients.{suffix}"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        out = StringIO()
        call_command("import_recipients", str(file), stdout=out, stderr=StringIO(), **options)
        rejects = tmp_path / f"recipients.{suffix}.rejects.csv"
        return {**json.loads(out.getvalue()), "rejects": read_rejects(rejects) if rejects.exists() else []}

    return run


def bad_lines(account: dict[str, Any]) -> list[int]:
    return sorted({line for line, _, _ in account["rejects"]})


def users() -> list[str]:
    return list(Recipient.objects.order_by("user_id").values_list("user_id", flat=True))


# --- CSV --------------------------------------------------------------------------------------------------------------


def test_csv_is_loaded_with_every_kind_of_column(run: Any) -> None:
    account = run(
        "user_id,email,phone,locale,time_zone,attributes,preferences.opted_out,preferences.channels.sms,"
        "preferences.categories.marketing.email,preferences.quiet_hours,devices\n"
        'user-1,ann@example.com,+15005550006,en-us,Europe/Berlin,"{""plan"": ""gold""}",false,no,0,'
        '"[{""start"": ""22:00"", ""end"": ""07:00""}]","[{""token"": ""t-1"", ""platform"": ""ios""}]"\n'
        "user-2,,,,,,,,,,\n"
        "user-3,,,,,,true,,,,\n"
    )
    assert (account["created"], account["rejected"]) == (3, 0)
    recipient = Recipient.objects.get(user_id="user-1")
    assert selectors.reveal_contact(recipient, Channel.EMAIL) == "ann@example.com"
    assert selectors.reveal_contact(recipient, Channel.SMS) == "+15005550006"
    assert (recipient.locale, recipient.time_zone, recipient.attributes) == ("en-US", "Europe/Berlin", {"plan": "gold"})
    assert (ChannelPreference.objects.get().channel, ChannelPreference.objects.get().is_enabled) == (Channel.SMS, False)
    assert CategoryPreference.objects.get().category.key == "marketing"
    assert QuietHours.objects.get().start_minute == 22 * 60
    assert selectors.reveal_token(Device.objects.get(), "user-1") == "t-1"
    assert Recipient.objects.get(user_id="user-3").is_opted_out


def test_columns_the_file_does_not_have_stay_as_they_are_and_blank_cells_remove(run: Any) -> None:
    RecipientFactory(user_id="user-1", channels={Channel.SMS: False})
    run("user_id,locale,phone,preferences.channels.sms\nuser-1,de,,\n")
    recipient = Recipient.objects.get()
    assert selectors.reveal_contact(recipient, Channel.EMAIL) == "user-1@example.com"
    assert recipient.phone_ct is None
    assert (recipient.locale, recipient.time_zone) == ("de", "Europe/Berlin")
    assert ChannelPreference.objects.get().is_enabled is False
    assert Device.objects.count() == 1


def test_the_same_file_again_changes_nothing(run: Any) -> None:
    text = HEADER + "user-1,ann@example.com,+15005550006,en,Europe/Berlin\n"
    run(text)
    before = Recipient.objects.values().get()
    assert run(text)["unchanged"] == 1
    assert Recipient.objects.values().get() == before


def test_bad_lines_are_listed_and_the_others_loaded(run: Any) -> None:
    lines = [f"user-{number},user-{number}@example.com,,," for number in range(1_000)]
    broken = range(50, 1_000, 100)
    for number in broken:
        lines[number] = f"user-{number},no address,,,"
    account = run(HEADER + "\n".join(lines) + "\n")
    assert (account["created"], account["rejected"]) == (990, 10)
    assert bad_lines(account) == [number + 2 for number in broken]
    assert {field for _, field, _ in account["rejects"]} == {"email"}


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (",a@example.com,,,", "user_id"),
        ("a/b,,,,", "user_id"),
        ("ann@example.com,,,,", "user_id"),
        (" user-1,,,,", "user_id"),
        ("user-1,ann,,,", "email"),
        ("user-1,,12345,,", "phone"),
        ("user-1,,,no such locale,", "locale"),
        ("user-1,,,,Mars/Phobos", "time_zone"),
        ("user-1,,,", ""),
        ("user-1,,,,,", ""),
        ('user-1,"a"b@example.com,,,', ""),
        ('user-1,"ann@example.com,,,', ""),
        ("user-1,ann\0@example.com,,,", "email"),
        (f"user-1,{'a' * 400}@example.com,,,", "email"),
    ],
)
def test_bad_row_between_good_ones(run: Any, row: str, field: str) -> None:
    account = run(f"{HEADER}first,,,,\n{row}\nlast,,,,\n")
    assert users() == ["first", "last"]
    assert bad_lines(account) == [3]
    assert account["rejects"][0][1] == field
    assert account["rejects"][0][2]


def test_bad_cells_of_other_columns(run: Any) -> None:
    header = "user_id,attributes,devices,preferences.opted_out,preferences.quiet_hours\n"
    rows = ["a,{,,,", "b,[],,,", "c,,{},,", "d,,[1],,", "e,,,maybe,", "f,,,,7", "g,,nonsense,,", "h,,,,", '"i",,,,']
    account = run(header + "\n".join(rows) + "\n")
    assert users() == ["h", "i"]
    assert [(line, field) for line, field, _ in account["rejects"]] == [
        (2, "attributes"), (3, "attributes"), (4, "devices"), (5, "devices/0"), (6, "preferences/opted_out"),
        (7, "preferences/quiet_hours"), (8, "devices"),
    ]  # fmt: skip


def test_bom_and_crlf_are_understood(run: Any) -> None:
    account = run(b"\xef\xbb\xbfuser_id,locale\r\nuser-1,de\r\n\r\nuser-2,en")
    assert (account["created"], account["rejected"]) == (2, 0)
    assert Recipient.objects.get(user_id="user-1").locale == "de"


def test_quoted_line_breaks_stay_in_their_cell_and_lines_are_still_counted(run: Any) -> None:
    account = run('user_id,attributes\na,"{\n""x"":\r\n1}"\nb,"no\njson"\nc,\n')
    assert Recipient.objects.get(user_id="a").attributes == {"x": 1}
    assert bad_lines(account) == [5]
    assert users() == ["a", "c"]


def test_quote_that_never_ends_costs_its_own_line_only(run: Any) -> None:
    rows = [f"user-{number},de" for number in range(5_000)]
    rows[10] = 'user-10,"de'
    rows[20] = 'user-20,"de'  # an even number of them: together they look like one cell over eleven lines
    account = run("user_id,locale\n" + "\n".join(rows) + "\n")
    assert bad_lines(account) == [12, 22]
    assert account["created"] == 4_998


def test_line_that_is_not_utf8_is_listed(run: Any) -> None:
    account = run(b"user_id,email\na,\nb,\xe4@example.com\nc,\n")
    assert users() == ["a", "c"]
    assert account["rejects"] == [(3, "", "The line is not UTF-8.")]


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
def test_line_without_end_does_not_fill_the_memory(run: Any, suffix: str) -> None:
    good = (b"a,\n", b"c,\n") if suffix == "csv" else (b'{"user_id": "a"}\n', b'{"user_id": "c"}\n')
    head = b"user_id,locale\n" if suffix == "csv" else b'{"user_id": "0"}\n'
    account = run(head + good[0] + b"b" * (3 * MAX_RECORD_BYTES) + b"\n" + good[1], suffix)
    assert bad_lines(account) == [3]
    assert set(users()) >= {"a", "c"}


def test_one_users_lines_take_effect_in_their_order(run: Any) -> None:
    account = run(
        "user_id,locale\n" + "".join(f"user-1,{'de' if n % 2 else 'en'}\nuser-{n + 2},fr\n" for n in range(9))
    )
    assert Recipient.objects.get(user_id="user-1").locale == "en"
    assert (account["created"], account["updated"]) == (10, 8)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "name the columns"),
        ("\n", "name the columns"),
        ("email\n", "user_id"),
        ("user_id;email\nuser-1;\n", "separated by something else"),
        ("user_id,user_id\n", "user_id"),
        ("user_id,email,email\n", "twice"),
        ("user_id,e-mail\n", "Column 2"),
        ("user_id,preferences.channels.fax\n", "Column 2"),
        ("user_id,preferences.categories.no-such.sms\n", "Column 2"),
        ("user_id,ann@example.com\n", "Column 2"),
        (b"\xff\xfeu\x00s\x00e\x00r\x00", "UTF-16"),
        (b"PK\x03\x04\x00\x00", "UTF-8"),
        (b"user_id,\xe4\n", "UTF-8"),
    ],
)
def test_file_that_cannot_be_imported_says_why(run: Any, content: str | bytes, words: str) -> None:
    with pytest.raises(CommandError, match=words) as caught:
        run(content)
    assert "ann@example.com" not in str(caught.value)
    assert not Recipient.objects.exists()


def test_unknown_format_and_missing_file_say_why(run: Any, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="--format"):
        run("", "txt")
    with pytest.raises(CommandError, match="No such file"):
        call_command("import_recipients", str(tmp_path / "nothing.csv"))
    assert run("user_id\na\n", "txt", format="csv")["created"] == 1


# --- NDJSON -----------------------------------------------------------------------------------------------------------


def test_ndjson_is_loaded(run: Any) -> None:
    item = {
        "user_id": "user-1",
        "email": "ann@example.com",
        "attributes": {"plan": "gold"},
        "preferences": {"channels": {"sms": False}},
        "devices": [{"token": "t-1", "platform": "ios"}],
    }
    account = run("\ufeff" + json.dumps(item) + "\n\n" + '{"user_id": "user-2"}', "ndjson")
    assert (account["created"], account["rejected"]) == (2, 0)
    assert Device.objects.get().recipient.user_id == "user-1"
    assert run('{"user_id": "user-1", "locale": "de"}', "jsonl")["updated"] == 1
    assert Recipient.objects.get(user_id="user-1").attributes == {"plan": "gold"}


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (b"{", ""), (b"[]", ""), (b"null", ""), (b"1", ""), (b'"user-1"', ""), (b"{}", "user_id"),
        (b'{"user_id": 1}', "user_id"), (b'{"user_id": "x", "email": true}', "email"), (b"[" * 50_000, ""),
        (b'{"user_id": "\xe4"}', ""), (b'{"user_id": "x", "y": 1}', "y"), (b'{"user_id": "\\ud800"}', ""),
        (b'{"user_id": "x", "ann@example.com": 1}', "?"),
        (b'{"user_id": "x", "devices": [{"token": 1, "platform": "ios"}]}', "devices/0/token"),
        (b'{"user_id": "x", "attributes": {"a": "\\u0000"}}', "attributes"),
        (b'{"user_id": "x", "attributes": 1e999}', ""),
    ],
)  # fmt: skip
def test_bad_line_between_good_ones(run: Any, line: bytes, field: str) -> None:
    account = run(b'{"user_id": "first"}\n' + line + b'\n{"user_id": "last"}\n', "ndjson")
    assert users() == ["first", "last"]
    assert bad_lines(account) == [2]
    assert account["rejects"][0][1] == field


def test_list_of_rejects_repeats_nothing_of_the_data(run: Any, tmp_path: Path) -> None:
    run('{"user_id": "secret/1", "email": "secret", "phone": "secret", "devices": [{"token": "sec ret"}]}\n', "ndjson")
    text = (tmp_path / "recipients.ndjson.rejects.csv").read_text()
    assert "secret" not in text
    assert "sec ret" not in text


# --- erased recipients ------------------------------------------------------------------------------------------------


def test_erased_recipient_is_not_brought_back_by_an_old_file(run: Any) -> None:
    RecipientFactory(user_id="user-1")
    services.erase_recipient(user_id="user-1")
    account = run(HEADER + "user-1,ann@example.com,,,\n")
    assert account["rejects"] == [(2, "user_id", "The recipient was erased; --restore-erased brings them back.")]
    assert Recipient.objects.get().erased_at
    assert run(HEADER + "user-1,ann@example.com,,,\n", restore_erased=True)["created"] == 1
    assert Recipient.objects.get().erased_at is None


# --- progress and resuming --------------------------------------------------------------------------------------------


def plan_of(file: Path, **options: Any) -> Plan:
    return Plan(file, file.with_name("rejects.csv"), file.with_name("progress"), **options)


def write_rows(file: Path, count: int) -> list[int]:
    """A file of ``count`` rows; the numbers of its bad lines."""
    broken = [number for number in range(count) if number % 100 == 50]
    rows = (f"user-{n},{'broken' if n % 100 == 50 else f'user-{n}@example.com'}" for n in range(count))
    file.write_text("user_id,email\n" + "".join(f"{row}\n" for row in rows))
    return [number + 2 for number in broken]


def listed_lines(file: Path) -> list[int]:
    return [line for line, _, _ in read_rejects(file.with_name("rejects.csv"))]


def test_import_stopped_after_any_block_is_continued_there(tmp_path: Path) -> None:
    file = tmp_path / "recipients.csv"
    broken = write_rows(file, 9_000)

    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        raise Stop

    with pytest.raises(Stop):
        import_file(plan_of(file), report=stop)
    assert Recipient.objects.count() == 1_980
    for _ in range(3):
        with pytest.raises(Stop):
            import_file(plan_of(file, is_resumed=True), report=stop)
    account = import_file(plan_of(file, is_resumed=True))
    assert Recipient.objects.count() == 8_910
    assert (account.outcomes, account.rejected) == ({"created": 8_910}, 90)
    assert listed_lines(file) == broken
    with pytest.raises(InvalidFile, match="nothing to resume"):
        import_file(plan_of(file, is_resumed=True))


def test_rejects_written_just_before_a_crash_are_not_listed_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "recipients.csv"
    broken = write_rows(file, 4_000)

    def crash(*args: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(imports.import_progress, "save", crash)  # the crash comes between the list and the progress
        with pytest.raises(MemoryError):
            import_file(plan_of(file))
    plan = plan_of(file)
    imports.import_progress.save(plan.progress, imports.import_progress.begin(file))
    assert import_file(plan_of(file, is_resumed=True)).rejected == 40
    assert listed_lines(file) == broken


def test_file_that_was_changed_is_not_resumed(tmp_path: Path) -> None:
    file = tmp_path / "recipients.csv"
    write_rows(file, 10)
    plan = plan_of(file, is_resumed=True)
    imports.import_progress.save(plan.progress, imports.import_progress.begin(file))
    file.write_text(file.read_text() + "more,\n")
    with pytest.raises(InvalidFile, match="changed"):
        import_file(plan)
    plan.progress.write_text("{")
    with pytest.raises(InvalidFile, match="cannot be read"):
        import_file(plan)


@pytest.mark.django_db(transaction=True)
def test_processes_of_their_own_come_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "SMALL_FILE_BYTES", 0)  # so that a small file takes the way of a large one
    file = tmp_path / "recipients.csv"
    broken = write_rows(file, 9_000)
    with file.open("a") as more:
        more.write("".join(f"user-7,{'odd' if n % 2 else 'even'}@example.com\n" for n in range(4_001)))
    account = import_file(plan_of(file, processes=2))
    assert account.rejected == 90
    assert listed_lines(file) == broken
    assert Recipient.objects.count() == 8_910
    recipient = Recipient.objects.get(user_id="user-7")
    assert selectors.reveal_contact(recipient, Channel.EMAIL) == "even@example.com"
    assert not plan_of(file).progress.exists()


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts ``manage.py import_recipients`` on the test's own database."""
    started: list[subprocess.Popen[bytes]] = []
    settings = connection.settings_dict
    url = (
        f"postgres://{settings['USER']}:{settings['PASSWORD']}@{settings['HOST']}:{settings['PORT']}/{settings['NAME']}"
    )

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-W", "ignore", "manage.py", "import_recipients", *arguments]
        process = subprocess.Popen(
            argv, env={**os.environ, "DATABASE_URL": url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.django_db(transaction=True)
def test_killed_import_is_resumed_and_loads_every_line_once(tmp_path: Path, command: Any) -> None:
    file = tmp_path / "recipients.csv"
    broken = write_rows(file, 60_000)
    paths = (f"--rejects={tmp_path / 'rejects.csv'}", f"--progress={tmp_path / 'progress'}")
    process = command(str(file), "--processes=2", *paths)
    while not (tmp_path / "progress").exists():
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGKILL)
    process.wait()
    resumed = command(str(file), "--processes=2", "--resume", *paths)
    out, _ = resumed.communicate(timeout=120)
    account = json.loads(out)
    assert resumed.returncode == 0
    assert account["created"] + account["unchanged"] == 59_400
    assert account["rejected"] == 600
    assert Recipient.objects.count() == 59_400
    assert listed_lines(file) == broken


# --- framing ----------------------------------------------------------------------------------------------------------


def test_blocks_cover_the_file_without_gap_or_overlap(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_bytes(b"".join(b'%d,"a\nb"\n' % number for number in range(5_000)))
    with file.open("rb") as stream:
        blocks = list(read_blocks(stream, BEGINNING, columns=2))
        assert [number for block in blocks for number in block.lines] == list(range(1, 10_000, 2))
        assert blocks[-1].end == (file.stat().st_size, 10_000)
        again = list(read_blocks(stream, blocks[0].end, columns=2))
    assert [block.lines for block in again] == [block.lines for block in blocks[1:]]
    assert [block.records for block in again] == [block.records for block in blocks[1:]]


def test_header_may_be_quoted_and_spaced() -> None:
    header = read_header(b'"user_id", locale\r\n', {})
    assert read_csv_item(b"user-1,de\n", header) == {"user_id": "user-1", "locale": "de"}


def test_format_goes_by_the_name() -> None:
    assert plan_of(Path("a.CSV")).find_format() is Format.CSV
    assert plan_of(Path("a.jsonl")).find_format() is Format.NDJSON
