"""W3C trace context, strictly, and the trace id that follows the work."""

import re
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.contextvars import get_contextvars

from apps import trace

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_reads_the_example_of_the_specification():
    parsed = trace.parse_traceparent(f"00-{TRACE_ID}-{PARENT_ID}-01")
    assert parsed == trace.TraceParent(TRACE_ID, PARENT_ID, is_sampled=True)


@pytest.mark.parametrize(("flags", "is_sampled"), [("00", False), ("01", True), ("02", False), ("ff", True)])
def test_only_the_lowest_bit_of_the_flags_means_sampled(flags, is_sampled):
    parsed = trace.parse_traceparent(f"00-{TRACE_ID}-{PARENT_ID}-{flags}")
    assert parsed is not None
    assert parsed.is_sampled is is_sampled


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "garbage",
        f"00-{'0' * 32}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{PARENT_ID}-01",
        f"ff-{TRACE_ID}-{PARENT_ID}-01",
        f"01-{TRACE_ID}-{PARENT_ID}-01",
        f"00-{TRACE_ID[:-1]}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{PARENT_ID}-1",
        f"00-{TRACE_ID}-{PARENT_ID}-01-extra",
        f"00-{TRACE_ID}-{PARENT_ID}-01\n",
        f" 00-{TRACE_ID}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{PARENT_ID}-01,00-{TRACE_ID}-{PARENT_ID}-01",
        f"00-{TRACE_ID[:-1]}٣-{PARENT_ID}-01",
    ],
)
def test_anything_else_is_no_traceparent(header):
    assert trace.parse_traceparent(header) is None


@settings(deadline=None)
@given(st.text(max_size=80))
def test_no_text_breaks_the_parser(text):
    assert trace.parse_traceparent(text) is None


@settings(deadline=None)
@given(st.booleans())
def test_what_is_formatted_can_be_parsed(is_sampled):
    trace_id = trace.new_trace_id()
    parsed = trace.parse_traceparent(trace.format_traceparent(trace_id, is_sampled=is_sampled))
    assert parsed is not None
    assert (parsed.trace_id, parsed.is_sampled) == (trace_id, is_sampled)


@pytest.mark.parametrize("trace_id", ["", "order-4711", "0" * 32, TRACE_ID.upper()])
def test_a_callers_own_words_cannot_travel_in_traceparent(trace_id):
    with pytest.raises(ValueError, match="32 lower-case hex"):
        trace.format_traceparent(trace_id)


@pytest.mark.parametrize("value", ["a", "order-4711.retry_2", "A" * 64, TRACE_ID])
def test_a_caller_may_name_a_trace_in_plain_characters(value):
    assert trace.is_valid_trace_id(value)


@pytest.mark.parametrize("value", ["", "A" * 65, "a b", "a/b", "a@example.com", "a\n", "é", "+15005550006", "a\0"])
def test_other_names_for_a_trace_are_refused(value):
    assert not trace.is_valid_trace_id(value)


def test_new_trace_ids_differ_and_are_hex():
    first, second = trace.new_trace_id(), trace.new_trace_id()
    assert first != second
    assert re.fullmatch("[0-9a-f]{32}", first)


def test_binding_covers_the_block_and_the_log_context_and_nests():
    with trace.bind_trace("outer"):
        with trace.bind_trace("inner"):
            assert trace.current_trace_id() == "inner"
            assert get_contextvars()["trace_id"] == "inner"
        assert trace.current_trace_id() == "outer"
        assert get_contextvars()["trace_id"] == "outer"
    assert trace.current_trace_id() == ""
    assert "trace_id" not in get_contextvars()


def test_binding_nothing_leaves_the_trace_alone():
    with trace.bind_trace("outer"), trace.bind_trace("") as bound:
        assert bound == trace.current_trace_id() == "outer"


def test_an_adopted_trace_lasts_until_the_end_of_the_outer_block():
    with trace.bind_trace("edge"):
        assert trace.adopt_trace(None) == "edge"
        assert trace.adopt_trace("order-1") == "order-1"
        assert get_contextvars()["trace_id"] == "order-1"
    assert trace.current_trace_id() == ""
    assert "trace_id" not in get_contextvars()


def test_a_trace_ends_with_an_exception():
    with pytest.raises(RuntimeError), trace.bind_trace("doomed"):
        raise RuntimeError
    assert trace.current_trace_id() == ""


def test_threads_do_not_see_each_others_trace():
    seen = []
    with trace.bind_trace("mine"):
        thread = threading.Thread(target=lambda: seen.append(trace.current_trace_id()))
        thread.start()
        thread.join()
    assert seen == [""]
