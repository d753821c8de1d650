"""The same commands everywhere: launcher, Procfile, compose files."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from apps.delivery.queues import ALL_QUEUES
from notify_project.local import roles

ROOT = Path(__file__).parent.parent.parent
PYTHON_ROLES = (roles.WEB, *roles.WORKER_ROLES, roles.BEAT, roles.FLOWER)


class ComposeLoader(yaml.SafeLoader):
    """YAML with compose's two tags for merging files."""


def construct_override(loader, node):
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True)


ComposeLoader.add_constructor("!reset", lambda loader, node: None)
ComposeLoader.add_constructor("!override", construct_override)


def expected_commands(*, host: str, schedule: Path) -> dict[str, list[str]]:
    commands = {
        roles.WEB: roles.web_command(host=host, port=8000, counts=roles.Counts()),
        roles.BEAT: roles.beat_command(schedule=schedule),
        roles.FLOWER: roles.flower_command(host=host, port=5555),
    }
    for role in roles.WORKER_ROLES:
        commands[role] = roles.worker_command(role, instance=role, threads=roles.Counts().threads_of(role))
    return commands


def load(name: str) -> dict[str, Any]:
    return yaml.load((ROOT / "compose" / name).read_text(), ComposeLoader)


def test_every_queue_has_exactly_one_kind_of_worker():
    served = [queue for queues in roles.QUEUES.values() for queue in queues]
    assert sorted(served) == sorted(ALL_QUEUES)


def test_high_workers_never_take_bulk_work():
    assert not any("bulk" in queue for queue in roles.QUEUES[roles.HIGH])


def test_several_processes_of_a_role_have_names_of_their_own():
    assert roles.instances(roles.HIGH, 1) == ["worker-high"]
    names = roles.instances(roles.HIGH, 2)
    assert [roles.node_name(name) for name in names] == ["high-1", "high-2"]


def test_procfile_runs_the_same_commands():
    lines = (ROOT / "Procfile").read_text().splitlines()
    commands = {name: shlex.split(command) for name, command in (line.split(": ", 1) for line in lines)}
    assert commands == expected_commands(host="127.0.0.1", schedule=Path(".local/beat/schedule"))


def test_compose_runs_the_same_commands():
    services = load("compose.yaml")["services"]
    commands = {role: shlex.split(services[role]["command"]) for role in PYTHON_ROLES}
    assert commands == expected_commands(host="0.0.0.0", schedule=Path("/var/lib/notify/schedule"))


def test_compose_gives_every_role_the_same_settings():
    services = load("compose.yaml")["services"]
    for role, settings in roles.SETTINGS.items():
        assert settings.items() <= services[role]["environment"].items()


def test_compose_health_checks_ask_the_worker_they_belong_to():
    services = load("compose.yaml")["services"]
    for role in roles.WORKER_ROLES:
        assert services[role]["healthcheck"]["test"][1:] == ["python", "-m", "apps.liveness", roles.node_name(role)]


def test_compose_names_every_setting_without_a_default():
    example = (ROOT / "compose" / "env.example").read_text()
    for name in ("SECRET_KEY", "PII_KEYS", "BLIND_INDEX_KEY", "API_KEY_PEPPER", "PUSH_ACK_KEY"):
        assert f"\n{name}=" in example


@pytest.mark.parametrize("name", ["compose.yaml", "compose.rabbitmq.yaml"])
def test_compose_passwords_come_from_outside(name):
    for service in load(name)["services"].values():
        for variable, value in service.get("environment", {}).items():
            if "PASS" in variable or "URL" in variable:
                assert ":?}" in value


def test_compose_with_rabbitmq_gives_every_process_the_other_broker():
    services = load("compose.rabbitmq.yaml")["services"]
    for role in (*PYTHON_ROLES, "migrate"):
        assert services[role]["environment"]["BROKER_URL"].startswith("amqp://")
    assert services["broker"]["image"].startswith("rabbitmq:")


def test_image_runs_the_web_role_by_default():
    dockerfile = (ROOT / "compose" / "Dockerfile").read_text().replace("\\\n", "")
    command = yaml.safe_load(dockerfile.rsplit("\nCMD ", 1)[1])
    assert command == expected_commands(host="0.0.0.0", schedule=Path())[roles.WEB]
