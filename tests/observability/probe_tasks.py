"""Tasks that the worker of test_worker.py runs."""

from typing import NoReturn

import structlog

from notify_project.celery import app

log = structlog.get_logger("notify.probe")


@app.task(name="tests.probe")
def probe(number: int) -> None:
    log.info("probed", number=number)


@app.task(name="tests.fail")
def fail(number: int) -> NoReturn:
    local_secret = f"{number} hunter2"
    raise ValueError(f"no mail for someone@example.com after {len(local_secret)} letters")
