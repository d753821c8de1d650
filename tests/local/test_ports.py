import socket

import pytest

from notify_project.local import ports as ports_module
from notify_project.local.errors import LocalError
from notify_project.local.ports import LOOPBACK, LOWEST, OUTGOING, Ports, free_port, is_port_free, stored_port


@pytest.fixture
def listener():
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        server.listen()
        yield server.getsockname()[1]


def test_usual_ports_without_variables():
    assert Ports.from_environment({}) == Ports(
        web=8000, flower=5555, sandbox=8443, sandbox_http=8025, sandbox_smtp=8587
    )


def test_variable_moves_a_port_and_empty_means_usual():
    ports = Ports.from_environment({"WEB_PORT": "9000", "FLOWER_PORT": ""})
    assert (ports.web, ports.flower) == (9000, 5555)


@pytest.mark.parametrize("value", ["0", "65536", "-1", "abc", "80.5", "٨٠"])
def test_bad_port_is_named_with_its_variable(value):
    with pytest.raises(LocalError, match=r"SANDBOX_HTTP_PORT must be a port number from 1 to 65535"):
        Ports.from_environment({"SANDBOX_HTTP_PORT": value})


def test_auto_chooses_different_free_ports():
    ports = Ports.from_environment({"NOTIFY_PORTS": "auto", "WEB_PORT": "8000"})
    chosen = {ports.web, ports.flower, ports.sandbox, ports.sandbox_http, ports.sandbox_smtp}
    assert len(chosen) == 5
    assert all(is_port_free(port) for port in chosen)


def test_free_ports_are_none_of_those_for_outgoing_connections():
    first_outgoing = int(OUTGOING.read_text().split()[0])
    chosen = [free_port() for _ in range(50)]
    assert len(set(chosen)) == 50
    assert all(LOWEST <= port < first_outgoing for port in chosen)


@pytest.mark.parametrize("outgoing", ["1024\t65535\n", None])
def test_any_free_port_will_do_where_those_are_unknown_or_all(monkeypatch, tmp_path, outgoing):
    path = tmp_path / "ip_local_port_range"
    if outgoing is not None:
        path.write_text(outgoing)
    monkeypatch.setattr(ports_module, "OUTGOING", path)
    assert is_port_free(free_port())


def test_taken_port_is_named_with_its_variable(listener):
    ports = Ports(
        web=free_port(),
        flower=listener,
        sandbox=free_port(),
        sandbox_http=free_port(),
        sandbox_smtp=free_port(),
    )
    with pytest.raises(LocalError, match=rf"^Port {listener} is taken.*FLOWER_PORT=\d+ make run"):
        ports.check_free()


def test_stored_port_is_kept_until_somebody_takes_it(tmp_path, listener):
    path = tmp_path / "port"
    first = stored_port(path)
    assert stored_port(path) == first
    path.write_text(str(listener))
    assert stored_port(path) != listener


def test_former_ports_are_kept_as_far_as_they_are_free(listener):
    web = free_port()
    ports = Ports.kept({"WEB_PORT": str(web), "FLOWER_PORT": str(listener), "SANDBOX_PORT": "none"})
    assert ports.web == web
    assert ports.flower != listener
    assert is_port_free(ports.flower)
    assert is_port_free(ports.sandbox)
