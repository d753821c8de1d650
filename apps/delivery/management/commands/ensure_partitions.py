"""``manage.py ensure_partitions``: makes the daily partitions of the delivery log that are missing."""

from typing import Any

from django.core.management.base import BaseCommand

from apps.delivery.partitions import DAYS_AHEAD, ensure_partitions, today_utc


class Command(BaseCommand):
    help = "Makes the delivery log's partitions from yesterday to two weeks ahead. The maintenance task does it hourly."

    def handle(self, *args: Any, **options: Any) -> None:
        made = ensure_partitions(today=today_utc())
        self.stdout.write(f"{made} partitions made; the log is open for {DAYS_AHEAD} days ahead")
