"""A process of an import's own: it begins by importing this module, hence ``django.setup`` at its top."""

import os
import signal
import threading
from multiprocessing import parent_process

import django
from django.apps import apps
from django.db import connections

if not apps.ready:
    django.setup()

from apps.collecting import collect_rarely
from apps.preferences.import_framing import Block
from apps.preferences.import_worker import BlockReport, Job, store_block

_job: Job


def start_process(database: str, job: Job) -> None:
    """Prepares this process: the same database (a test's has another name than the settings say), one job."""
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends us
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    connections["default"].settings_dict["NAME"] = database
    collect_rarely()
    _job = job


def _leave_with_parent() -> None:
    # A pool's processes would wait for work for ever if the parent was killed.
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def store_block_here(block: Block) -> BlockReport:
    """``store_block`` for the job of this process."""
    return store_block(block, _job)
