"""What ``make run`` shows: one screen when everything is up, one line for each event after it."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from notify_project.local.stack import Stack

CHANNELS = ("push", "sms", "email")


class Screen:
    """Writes to ``stream``: coloured for a terminal, plain lines for a pipe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started_at = time.monotonic()

    def say(self, line: str) -> None:
        """One line, with the seconds since start."""
        self._write(f"{time.monotonic() - self._started_at:6.1f} s  {line}")

    def show(self, stack: Stack) -> None:
        """Where everything is, and what to paste."""
        rows = describe(stack)
        if self._stream.isatty():
            table = Table.grid(padding=(0, 2))
            for label, value in rows.items():
                table.add_row(Text(label, style="bold cyan"), Text(value, overflow="fold"))
            Console(file=self._stream).print(Panel(table, title="Notification platform", expand=False))
        else:
            width = max(map(len, rows))
            for label, value in rows.items():
                self._write(f"{label:<{width}}  {value}")
        for title, command in commands(stack).items():
            self._write(f"\n{title}:\n{command}")  # unwrapped: it is there to be copied
        self._write("\n`make demo` in another terminal sends 300 more and follows them. Ctrl-C stops everything.")

    def _write(self, line: str) -> None:
        try:
            print(line, file=self._stream, flush=True)
        except OSError:
            pass  # whoever was reading has gone; the stack runs on


def describe(stack: Stack) -> dict[str, str]:
    """The rows of the screen."""
    urls, credentials = stack.urls, stack.credentials
    rows = {
        "API docs": urls["docs"],
        "Admin": f"{urls['admin']}  user {credentials['admin_user']}  password {credentials['admin_password']}",
    }
    if "flower" in urls:
        user, password = credentials["flower_user"], credentials["flower_password"]
        rows["Flower"] = f"{urls['flower']}  user {user}  password {password}"
    if "inbox" in urls:
        rows["Sandbox inbox"] = f"{urls['inbox']}  what the providers' customers would have got"
    if credentials["api_key"]:
        rows["API key"] = credentials["api_key"]
    rows["Logs"] = f"{_short(stack.log_dir)}/<role>.log"
    rows["Settings"] = f"{_short(stack.env_file)}  (manage.py reads it)"
    return rows


def commands(stack: Stack) -> dict[str, str]:
    """Lines to paste into a shell, by title; none as long as there is no demo client."""
    key, user_id = stack.credentials["api_key"], demo_user(stack.demo)
    if not (key and user_id):
        return {}
    web = stack.urls["web"]
    body = {
        "user_id": user_id,
        "type": "welcome",
        "priority": "high",
        "channels": list(CHANNELS),
        "content": {"title": "Hello", "body": "It works."},
    }
    send = (
        f"curl -sS {web}/v1/notifications -H 'Authorization: Api-Key {key}' -H 'Content-Type: application/json' "
        f"-H \"X-Idempotency-Key: hello-$(date +%s%N)\" -d '{json.dumps(body)}'"
    )
    look = f"curl -sS '{web}/v1/notifications?limit=1' -H 'Authorization: Api-Key {key}'"
    return {"Send one": send, "See what became of it": look}


def demo_user(demo: Mapping[str, Any]) -> str:
    """``user_id`` of the first demo recipient, empty if there is none."""
    recipients = demo.get("recipients") or [""]
    first = recipients[0]
    return str(first["user_id"] if isinstance(first, dict) else first)


def as_json(stack: Stack) -> str:
    """Everything about a stack that is up, as one JSON line."""
    facts = {
        "urls": stack.urls,
        "credentials": stack.credentials,
        "demo": stack.demo,
        "pids": stack.pids(),
        "data_dir": str(stack.data_dir),
        "env_file": str(stack.env_file),
        "logs": str(stack.log_dir),
    }
    return json.dumps(facts)


def _short(path: Path) -> str:
    """Relative to the working directory where that is shorter."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
