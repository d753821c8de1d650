"""Make the stores ready: migrations, partitions, the broker's queues, demo data. One process, because starting Django
takes longer than all of it.

``python -m notify_project.local.prepare [--seed]`` prints one JSON object, the demo's client and recipients.
"""

import io
import json
import os
import sys
from typing import Any

import django
from django.core.management import call_command, get_commands


def main() -> None:
    """Run the commands; their own output goes to standard error."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notify_project.settings.base")
    django.setup()
    call_command("migrate", interactive=False, verbosity=0, stdout=sys.stderr)
    commands = get_commands()
    if "ensure_partitions" in commands:
        call_command("ensure_partitions", stdout=sys.stderr)
    call_command("declare_topology", recreate=True, stdout=sys.stderr)
    seeded: dict[str, Any] = {}
    if "--seed" in sys.argv[1:] and "seed_demo" in commands:
        output = io.StringIO()
        call_command("seed_demo", stdout=output)
        lines = output.getvalue().strip().splitlines()
        seeded = json.loads(lines[-1]) if lines else {}
    print(json.dumps(seeded))


if __name__ == "__main__":
    main()
