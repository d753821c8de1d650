"""A whole stack, really started: about three quarters of a minute for this file."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import urllib.request

import psutil
import pytest

from notify_project.local import roles
from notify_project.local.errors import LocalError
from notify_project.local.ports import Ports
from notify_project.local.stack import PROJECT_DIR, Stack, StackOptions
from tests.local.test_processes import wait_for

TERMINAL_TIMEOUT_S = 60.0  # a doorbell lost with the broker is rung again within half a minute


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    options = StackOptions(
        data_dir=tmp_path_factory.mktemp("stack"),
        counts=roles.Counts(high=2),
        role_settings={roles.HIGH: {"ONLY": "high"}, "worker-high-2": {"ONLY": "second"}},
    )
    with Stack(options) as stack:
        yield stack


def call(stack, path, body=None, **headers):
    headers["Authorization"] = f"Api-Key {stack.credentials['api_key']}"
    headers["Content-Type"] = "application/json"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(stack.urls["web"] + path, data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def send(stack, key):
    body = {"user_id": "demo-1", "type": "welcome", "priority": "high", "content": {"title": "Hello", "body": "There"}}
    return call(stack, "/v1/notifications", body, **{"X-Idempotency-Key": key})["id"]


def statuses(stack, notification_id):
    return {one["status"] for one in call(stack, f"/v1/notifications/{notification_id}")["deliveries"]}


def wait_delivered(stack, notification_id):
    wait_for(lambda: statuses(stack, notification_id) == {"delivered"}, timeout_s=TERMINAL_TIMEOUT_S)


def test_notification_is_delivered_on_every_channel(stack):
    wait_delivered(stack, send(stack, "stack-1"))


def test_every_role_runs(stack):
    pids = stack.pids()
    assert {role: len(of_role) for role, of_role in pids.items()} == {
        **dict.fromkeys((*roles.STORE_ROLES, *roles.OPTIONAL_ROLES), 1),
        roles.HIGH: 2,
    }


def test_role_settings_reach_their_processes_alone(stack):
    pids = stack.pids()
    values = [psutil.Process(pid).environ().get("ONLY") for pid in (*pids[roles.HIGH], *pids[roles.BULK])]
    assert values == ["high", "second", None]


def test_killed_workers_come_back_and_deliver(stack):
    before = stack.pids()[roles.HIGH]
    stack.kill(roles.HIGH)
    notification_id = send(stack, "stack-2")
    wait_for(lambda: len(set(stack.pids()[roles.HIGH]) - set(before)) == 2)
    stack.wait_ready()
    wait_delivered(stack, notification_id)


def test_request_is_accepted_without_a_broker_and_delivered_once_it_is_back(stack):
    stack.stop_role(roles.BROKER)
    assert stack.pids()[roles.BROKER] == []
    notification_id = send(stack, "stack-3")
    stack.start_role(roles.BROKER)
    wait_delivered(stack, notification_id)


def test_secrets_are_in_private_files_only(stack):
    assert stat.S_IMODE(stack.env_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(stack.data_dir.stat().st_mode) == 0o700
    for process in (psutil.Process(pid) for pids in stack.pids().values() for pid in pids):
        arguments = " ".join(process.cmdline())
        assert not any(secret in arguments for name, secret in stack.values.items() if "PASSWORD" in name)
        assert "://:" not in arguments


def test_manage_py_works_beside_it(stack):
    shown = stack.manage("shell", "-v", "0", "-c", "from django.conf import settings; print(settings.PUBLIC_URL)")
    assert shown.strip() == stack.urls["web"]


def test_second_run_on_the_same_data_is_refused(stack):
    with pytest.raises(LocalError, match=rf"running already in {stack.data_dir} \(process {os.getpid()}\)"):
        Stack(StackOptions(data_dir=stack.data_dir)).start()


def test_taken_port_is_told_before_anything_starts(stack, tmp_path):
    ports = Ports(web=stack.ports.web, flower=1, sandbox=2, sandbox_http=3, sandbox_smtp=4)
    with pytest.raises(LocalError, match=rf"Port {stack.ports.web} is taken.*WEB_PORT="):
        Stack(StackOptions(data_dir=tmp_path, ports=ports)).start()
    assert not (tmp_path / "postgres").exists()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv: leftovers are cleared by the next start only")
def test_killed_launcher_leaves_nothing_behind_and_can_be_followed(tmp_path):
    argv = [sys.executable, "-m", "notify_project.local", "up", f"--data-dir={tmp_path}", "--ports=auto"]
    for role in (*roles.WORKER_ROLES, roles.BEAT, roles.FLOWER, roles.SANDBOX):
        argv.append(f"--without={role}")
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
    processes = []
    for end in (signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen(argv, cwd=PROJECT_DIR, env=environment, stdout=subprocess.PIPE, text=True) as launcher:
            up = json.loads(launcher.stdout.readline())
            processes = [psutil.Process(pid) for pids in up["pids"].values() for pid in pids]
            assert len(processes) == 4
            launcher.send_signal(end)
        assert launcher.returncode == (-signal.SIGKILL if end == signal.SIGKILL else 0)
    wait_for(lambda: not any(process.is_running() for process in processes))
