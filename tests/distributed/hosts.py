"""Hosts on one machine: network namespaces joined by a switch, each with an address of its own and a cable that can be pulled."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.commands import LAUNCHED

INTERFACE = "eth0"


class NotPermitted(Exception):  # noqa: N818 - it is a reason to skip, not an error
    """Why there are no namespaces here."""


@dataclass(frozen=True)
class Host:
    """`namespace` is its network, `switch` that of the switch which its cable's other end, `port`, is plugged into."""

    namespace: str
    address: str
    switch: str
    port: str

    def cut(self) -> None:
        """Pull the cable: packets are lost, and nobody is told."""
        _ip("-n", self.switch, "link", "set", self.port, "down")

    def join(self) -> None:
        _ip("-n", self.switch, "link", "set", self.port, "up")

    def start(self, *command: str, cwd: Path, log: Path, variables: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a command on this host, with what it says in `log` (added to it)."""
        environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
        with log.open("ab") as output:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *command],
                cwd=cwd, env={**environment, **(variables or {})}, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    def torchrun(self, meet: "Host", nodes: str, run_id: str, *words: str, cwd: Path, log: Path) -> subprocess.Popen[bytes]:
        """torchrun with two processes on this host, which meets the others at `meet`; its words go on with -m and a module."""
        return self.start(
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", "2", "--max-restarts", "3"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{meet.address}:29500", "--rdzv-id", run_id),
            # Their common hostname does not lead to their addresses.
            *("--rdzv-conf", f"is_host={int(self == meet)}", "--local-addr", self.address, *words),
            cwd=cwd,
            log=log,
            variables={"GLOO_SOCKET_IFNAME": INTERFACE, "OMP_NUM_THREADS": "1"},
        )


@contextmanager
def joined_hosts(count: int) -> Iterator[list[Host]]:
    """So many hosts in one network, 10.77.0.1 and on; afterwards their processes and they are gone.

    Raises:
        NotPermitted: namespaces cannot be made here.
    """
    if not shutil.which("ip"):
        raise NotPermitted("ip is not installed here: apt-get install iproute2")
    names = [f"alexnet-{os.getpid()}-{place}" for place in ("switch", *map(str, range(count)))]
    with ExitStack() as at_end:
        for name in names:
            try:
                _ip("netns", "add", name)
            except subprocess.CalledProcessError as error:
                raise NotPermitted(f"network namespaces cannot be made here: {error.stderr.strip()}") from None
            at_end.callback(_remove, name)
        switch, hosts = names[0], []
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for number, name in enumerate(names[1:]):
            host = Host(name, f"10.77.0.{number + 1}", switch, f"port{number}")
            _ip("link", "add", INTERFACE, "netns", name, "type", "veth", "peer", "name", host.port, "netns", switch)
            _ip("-n", switch, "link", "set", host.port, "master", "bridge", "up")
            _ip("-n", name, "address", "add", f"{host.address}/24", "dev", INTERFACE)
            for link in ("lo", INTERFACE):
                _ip("-n", name, "link", "set", link, "up")
            hosts.append(host)
        yield hosts


def _remove(name: str) -> None:
    for pid in _ip("netns", "pids", name).split():
        os.kill(int(pid), 9)
    _ip("netns", "delete", name)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
