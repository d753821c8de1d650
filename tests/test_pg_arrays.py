from uuid import UUID

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from apps import pg_arrays

storable = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def read(text, kind):
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT %s::{kind}[]", [text])
        return cursor.fetchone()[0]


class ArraysTest(TestCase):
    @given(
        st.lists(st.none() | storable | st.sampled_from(["", "NULL", "{}", ",", '"', "\\", '\\"', " a ", "a,b", "'"]))
    )
    def test_texts_come_back_as_they_were(self, values):
        assert read(pg_arrays.of_texts(values), "text") == values

    @given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1)))
    def test_integers_come_back_as_they_were(self, values):
        assert read(pg_arrays.of_numbers(values), "bigint") == values

    @given(st.lists(st.none() | st.floats(allow_nan=False)))
    def test_floats_come_back_as_they_were(self, values):
        assert read(pg_arrays.of_numbers(values), "float8") == values

    @given(st.lists(st.uuids() | st.just(UUID(int=0))))
    def test_uuids_come_back_as_they_were(self, values):
        assert read(pg_arrays.of_uuids(values), "uuid") == values


@pytest.mark.django_db
def test_enumerated_numbers_are_numbers():
    from apps.channels import Channel  # noqa: PLC0415

    assert read(pg_arrays.of_numbers(Channel), "smallint") == [1, 2, 3]
