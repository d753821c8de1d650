import pytest
from django.utils import timezone

from apps.delivery import maintenance, partitions

pytestmark = pytest.mark.django_db


def test_chores_run():
    maintenance.run(now=timezone.now())


def test_chore_that_fails_keeps_no_other_from_being_done(monkeypatch):
    done = []

    def fail(**fields):
        raise RuntimeError("somebody reads that table")

    monkeypatch.setattr(partitions, "drop_old_partitions", fail)  # stands for a lock that is not given up
    monkeypatch.setattr(maintenance.receipts, "forget_applied", lambda **fields: done.append("receipts"))
    with pytest.raises(RuntimeError, match="somebody reads"):
        maintenance.run(now=timezone.now())
    assert done == ["receipts"]
