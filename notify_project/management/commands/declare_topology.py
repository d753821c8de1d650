"""``manage.py declare_topology``: declares the exchange and the queues on RabbitMQ."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from notify_project.topology import Finding, State, check_topology, declare_topology

_MEND = {
    State.MISSING: "run: manage.py declare_topology",
    State.DIFFERS: "run: manage.py declare_topology --recreate (deletes the messages in it: they are doorbells, and "
    "the sweep rings again for every row within half a minute)",
}


class Command(BaseCommand):
    help = (
        "Declares the exchange and the queues on RabbitMQ; to be run before web, workers and beat are started. "
        "Does no harm if run again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--check", action="store_true", help="change nothing; exit 1 if something is not as it is to be"
        )
        parser.add_argument("--recreate", action="store_true", help="delete what differs and declare it anew")

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.BROKER_IS_AMQP:
            self.stdout.write("Nothing to declare: on Redis a queue is a list that comes and goes with its messages.")
            return
        if options["check"] and options["recreate"]:
            raise CommandError("--check changes nothing and --recreate does: choose one.")
        try:
            findings = check_topology() if options["check"] else declare_topology(recreates=options["recreate"])
        except Exception as error:  # each transport has its own family of errors
            raise CommandError(
                f"The broker cannot be asked ({type(error).__name__}). Is it up, is BROKER_URL right?"
            ) from error
        for finding in findings:
            self.stdout.write(_line(finding))
        if not all(finding.is_well for finding in findings):
            raise CommandError("Not everything is as it has to be; see above.")


def _line(finding: Finding) -> str:
    words = [f"{finding.kind} {finding.name}: {finding.state.value}"]
    if finding.detail:
        words.append(finding.detail.partition("\n")[0])
    if finding.state in _MEND:
        words.append(_MEND[finding.state])
    return "; ".join(words)
