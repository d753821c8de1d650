"""Command line of the sandbox: ``init`` makes keys and certificates, ``serve`` runs it."""

import argparse
import os
import sys
from pathlib import Path

from apps.providers.sandbox.credentials import UnusableDataDirectoryError, initialise
from apps.providers.sandbox.server import AddressInUseError, Options, serve

DEFAULT_WEBHOOK_BASE = "http://127.0.0.1:8000"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m apps.providers.sandbox", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    initialising = commands.add_parser("init", help="make certificates, keys and credentials.env; keeps existing ones")
    serving = commands.add_parser("serve", help="serve until stopped by a signal")
    for command in (initialising, serving):
        command.add_argument("--data-dir", type=Path, required=True, help="where keys, certificates and ledger live")
        command.add_argument("--port", type=_port, required=True, help="TLS port of the providers")
    initialising.add_argument("--webhook-base", default=DEFAULT_WEBHOOK_BASE, help="where receipts are posted to")
    serving.add_argument("--webhook-base", default=None, help="where receipts are posted to; as at init if left out")
    for command in (initialising, serving):
        command.add_argument("--smtp-port", type=_port, default=0, help="port of the mail server; none if left out")
    serving.add_argument("--http-port", type=_port, default=0, help="plain HTTP port of the inbox and control API")
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serving.add_argument("--fsync", action="store_true", help="sync the ledger to the disk at every flush")
    serving.add_argument("--delivery-url", default="", help="link of a delivery in the inbox; {id} is filled in")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status, 2 for what the caller must mend."""
    options = build_parser().parse_args(arguments)
    try:
        if options.command == "init":
            initialise(
                options.data_dir,
                port=options.port,
                smtp_port=options.smtp_port,
                webhook_base=options.webhook_base,
            )
        else:
            _serve(options)
    except (UnusableDataDirectoryError, AddressInUseError, PermissionError) as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 2
    return 0


def _serve(options: argparse.Namespace) -> None:
    serve(
        Options(
            data_dir=options.data_dir,
            port=options.port,
            webhook_base=options.webhook_base or "",
            http_port=options.http_port,
            smtp_port=options.smtp_port,
            host=options.host,
            is_fsynced=options.fsync,
            delivery_url=options.delivery_url,
        )
    )


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 1 to 65535")
    return int(text)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Everything is closed. Were the interpreter taken down in good order, a thread of granian's that waits for it would
    # be ended inside Rust, which panics, now and then: https://github.com/PyO3/pyo3/pull/4874
    os._exit(status)
