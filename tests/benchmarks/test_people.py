"""People made for the benchmarks are people like any other."""

import pytest

from apps.channels import Channel
from apps.preferences.selectors import load_snapshots, reveal_address, select_versions
from benchmarks.names import email_of, token_of, user_id_of
from benchmarks.people import make_people

pytestmark = pytest.mark.django_db(transaction=True)


def test_they_can_be_reached():
    make_people(1, 30)
    versions = select_versions([user_id_of(7)])
    (snapshot,) = load_snapshots({user_id_of(7): versions[user_id_of(7)][1]}).values()
    assert reveal_address(snapshot, Channel.EMAIL) == email_of(7)
    assert reveal_address(snapshot, Channel.PUSH, snapshot.devices[0].id) == token_of(7)
