"""The kinds of stack that scenarios ask for by name."""

import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from notify_project.local import roles
from notify_project.local.postgres import Postgres
from notify_project.local.rabbitmq import RabbitMQ
from notify_project.local.valkey import Purpose, Valkey
from tests.chaos.cluster import RabbitMQCluster
from tests.chaos.proxy import ProxyProcess
from tests.chaos.rig import Rig, RigOptions

FAKETIME_FOLDERS = (Path("/usr/lib"), Path("/usr/local/lib"))
DISK_BYTES = 1_073_741_824
VARIABLES = {"broker": "BROKER_URL", "cache": "CACHE_URL", "database": "DATABASE_URL"}


class RigUnavailableError(Exception):
    """This machine lacks something the stack needs; the text says what."""


def build_rig(name: str, broker: str, home: Path, *, say: Callable[[str], None]) -> Rig:
    """The stack called ``name``, not started yet. Raises ``RigUnavailableError``."""
    return _BUILDERS[name](RigOptions(broker=broker, home=home, say=say))


def _skewed(options: RigOptions) -> Rig:
    """Two bulk workers, one ten minutes ahead, the other as far behind."""
    library = find_faketime()
    skews = {f"{roles.BULK}-1": "+600s", f"{roles.BULK}-2": "-600s"}
    role_settings = {
        # The monotonic clock stays true, as it would on a machine whose time is wrong.
        name: {"LD_PRELOAD": str(library), "FAKETIME": skew, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        for name, skew in skews.items()
    }
    return Rig(replace(options, counts=roles.Counts(bulk=2), role_settings=role_settings))


def _short_lease(options: RigOptions) -> Rig:
    """A row comes back seconds after its worker died, not half a minute; still longer than any provider call."""
    return Rig(replace(options, settings={"DELIVERY_LEASE_S": "4"}))


class SmallDiskRig(Rig):
    """The database's data is on a disk of its own, small enough to be filled."""

    def __enter__(self) -> Self:
        self._disk = self.options.home / "stack" / "postgres"
        self._disk.mkdir(parents=True)
        try:
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", str(self._disk)],
                check=True,
                capture_output=True,
                text=True,
            )
        except (OSError, subprocess.CalledProcessError) as error:
            why = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
            raise RigUnavailableError(f"a small disk cannot be mounted: {why}") from None
        try:
            return super().__enter__()
        except BaseException:
            self._unmount()
            raise

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        self._unmount()

    def fill_disk(self) -> None:
        """Until there is not a byte left."""
        with (self._disk / "filler").open("ab", buffering=0) as filler:
            block = b"\0" * 1_048_576
            while block:
                try:
                    filler.write(block)
                except OSError:
                    block = block[: len(block) // 2]

    def empty_disk(self) -> None:
        (self._disk / "filler").unlink()

    def _unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self._disk)], check=False, capture_output=True)


def find_faketime() -> Path:
    """libfaketime's library for programs with threads. Raises ``RigUnavailableError``."""
    for folder in FAKETIME_FOLDERS:
        for library in (*folder.glob("faketime/libfaketimeMT.so.1"), *folder.glob("*/faketime/libfaketimeMT.so.1")):
            return library
    raise RigUnavailableError("libfaketime is not installed: apt-get install libfaketime")


class ClusterRig(Rig):
    """Its broker is a RabbitMQ cluster of three nodes."""

    def __enter__(self) -> Self:
        with ExitStack() as outer:
            self.cluster = RabbitMQCluster(self.options.home / "cluster")
            outer.callback(self.cluster.stop)
            self.cluster.start()
            self.options = replace(self.options, settings={"BROKER_URL": self.cluster.url})
            super().__enter__()
            self._outer = outer.pop_all()
        return self

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        self._outer.close()


class ProxiedRig(Rig):
    """Its stores are reached through a proxy that can fall silent."""

    def __init__(self, options: RigOptions) -> None:
        self._stores = {
            "broker": _make_broker(options),
            "cache": Valkey(options.home / "cache", purpose=Purpose.CACHE),
            "database": Postgres(options.home / "postgres"),
        }
        self._outer = ExitStack()
        super().__init__(options)

    def __enter__(self) -> Self:
        with ExitStack() as outer:
            for store in self._stores.values():
                outer.callback(store.stop)
                store.launch()
            for store in self._stores.values():
                store.wait_ready()
            targets = {name: urlsplit(store.url).netloc.rpartition("@")[2] for name, store in self._stores.items()}
            self.proxy = outer.enter_context(ProxyProcess(targets))
            urls = {VARIABLES[name]: self._proxied(name) for name in self._stores}
            self.options = replace(self.options, settings=dict(self.options.settings) | urls)
            super().__enter__()
            self._outer = outer.pop_all()
        return self

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        self._outer.close()

    @property
    def database_url(self) -> str:
        return self._stores["database"].url

    @property
    def broker_url(self) -> str:
        return self._stores["broker"].url

    @property
    def cache_url(self) -> str:
        return self._stores["cache"].url

    def _proxied(self, name: str) -> str:
        parts = urlsplit(self._stores[name].url)
        login = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{self.proxy.ports[name]}"))


def _make_broker(options: RigOptions) -> RabbitMQ | Valkey:
    home = options.home / "broker"
    return RabbitMQ(home) if options.broker == "rabbitmq" else Valkey(home, purpose=Purpose.BROKER)


_BUILDERS: dict[str, Callable[[RigOptions], Rig]] = {
    "plain": Rig,
    "skewed": _skewed,
    "proxied": ProxiedRig,
    "cluster": ClusterRig,
    "short-lease": _short_lease,
    "small-disk": SmallDiskRig,
}
