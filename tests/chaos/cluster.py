"""Three RabbitMQ nodes on this machine, one cluster."""

import secrets
from pathlib import Path

from notify_project.local.ports import free_port
from notify_project.local.rabbitmq import RabbitMQ

START_TIMEOUT_S = 120


class _Node(RabbitMQ):
    """A node that looks for its peers, with a cookie, a password and a port mapper that they share."""

    def __init__(self, data_dir: Path, *, cookie: str, password: str, mapper_port: int) -> None:
        super().__init__(data_dir)
        self._cookie = cookie
        self._password = password
        self._mapper_port = mapper_port  # whose mapper comes second finds the port taken and ends
        self._port = free_port()
        self.peers: list[str] = []

    def _write_config(self) -> None:
        super()._write_config()
        lines = ["cluster_formation.peer_discovery_backend = classic_config", "cluster_partition_handling = autoheal"]
        lines += [f"cluster_formation.classic_config.nodes.{no} = {name}" for no, name in enumerate(self.peers, 1)]
        with (self.home / "rabbitmq.conf").open("a") as file:
            file.write("\n".join(lines) + "\n")
        cookie = self.home / ".erlang.cookie"
        cookie.chmod(0o600)
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)


class RabbitMQCluster:
    """``url`` names all nodes; clients go on to the next when theirs is gone."""

    def __init__(self, data_dir: Path, *, size: int = 3) -> None:
        shared = {"cookie": secrets.token_hex(16), "password": secrets.token_urlsafe(18), "mapper_port": free_port()}
        self.nodes = [_Node(data_dir / f"node-{number}", **shared) for number in range(size)]
        for node in self.nodes:
            node.peers = [peer.node_name for peer in self.nodes]

    @property
    def url(self) -> str:
        return ";".join(node.url for node in self.nodes)

    def start(self) -> None:
        """The first founds the cluster, the others join it. Raises ``LocalError``."""
        first, *others = self.nodes
        first.start()
        for node in others:
            node.start()
        first.control("await_online_nodes", str(len(self.nodes)), "--timeout", str(START_TIMEOUT_S))

    def stop(self) -> None:
        for node in reversed(self.nodes):  # the first one's port mapper is everybody's
            node.stop()

    def kill(self, number: int) -> None:
        """SIGKILL to one node."""
        self.nodes[number].kill()

    def start_node(self, number: int) -> None:
        """Starts a killed node again and waits until it takes connections."""
        self.nodes[number].start()
