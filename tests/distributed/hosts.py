"""Hosts on one machine: network namespaces joined by a switch, each with an address of its own and a cable that can be pulled."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.commands import LAUNCHED

INTERFACE = "eth0"
PORT = 29500
OWN_FILES = Path("/etc/netns")  # <namespace>/hosts there is /etc/hosts for what `ip netns exec` starts


class NotPermitted(Exception):  # noqa: N818 - it is a reason to skip, not an error
    """Why there are no namespaces here."""


@dataclass(frozen=True)
class Host:
    """`namespace` is its network, `switch` that of the switch which its cable's other end, `port`, is plugged into."""

    name: str
    namespace: str
    switch: str
    port: str

    def cut(self) -> None:
        """Pull the cable: packets are lost, and nobody is told."""
        _ip("-n", self.switch, "link", "set", self.port, "down")

    def plug_in(self) -> None:
        _ip("-n", self.switch, "link", "set", self.port, "up")

    def slow_down(self, bits_per_second: float) -> None:
        """Slow down what goes out to a rate, as a slower cable would."""
        limit_rate(bits_per_second, within=("ip", "netns", "exec", self.namespace))

    def kill_all(self) -> None:
        """End every process here at once, as a loss of power would."""
        for pid in _ip("netns", "pids", self.namespace).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def ranks(self) -> list[int]:
        """Those of the run's processes here."""
        found = (process.environ() for process in self._processes())
        return sorted({int(environment["RANK"]) for environment in found if "LOCAL_RANK" in environment})

    @contextmanager
    def held_up(self) -> Iterator[psutil.Process]:
        """A process of the run stands still, and so does the run; which."""
        held = next(process for process in self._processes() if process.environ().get("LOCAL_RANK") == "1")
        held.suspend()
        yield held
        held.resume()

    def _processes(self) -> list[psutil.Process]:
        return [psutil.Process(int(pid)) for pid in _ip("netns", "pids", self.namespace).split()]

    def torchrun(
        self, meet: "Host", nodes: str, run_id: str, *words: str, cwd: Path, log: Path, processes: int = 2, **variables: str
    ) -> subprocess.Popen[bytes]:
        """Start torchrun with so many processes here, meeting the others at `meet`; what it says is added to `log`."""
        launcher = (
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", str(processes)),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{meet.name}:{PORT}", "--rdzv-id", run_id),
            *("--max-restarts", "3"),
        )
        inherited = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
        named = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name)
        environment = {**inherited, "OMP_NUM_THREADS": "1", **variables}
        with log.open("ab") as output:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *named, *launcher, *words],
                cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip


@contextmanager
def joined_hosts(count: int) -> Iterator[list[Host]]:
    """So many hosts in one network, host0 and on, which know each other by name; afterwards their processes and they are gone.

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
            at_end.callback(_remove, Host(name, name, "", ""))
        switch, hosts = names[0], []
        addresses = [f"10.77.0.{number + 1}" for number in range(count)]
        known = "127.0.0.1 localhost\n" + "".join(f"{address} host{number}\n" for number, address in enumerate(addresses))
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for number, name in enumerate(names[1:]):
            host = Host(f"host{number}", name, switch, f"port{number}")
            (OWN_FILES / name).mkdir(parents=True)
            (OWN_FILES / name / "hosts").write_text(known)
            _ip("link", "add", INTERFACE, "netns", name, "type", "veth", "peer", "name", host.port, "netns", switch)
            _ip("-n", switch, "link", "set", host.port, "master", "bridge", "up")
            _ip("-n", name, "address", "add", f"{addresses[number]}/24", "dev", INTERFACE)
            for link in ("lo", INTERFACE):
                _ip("-n", name, "link", "set", link, "up")
            hosts.append(host)
        yield hosts


def limit_rate(bits_per_second: float, within: tuple[str, ...] = ()) -> None:
    """Slow down what goes out of a host to a rate: of that in which this process is, or `within` another."""
    # What may pass at once is not slowed: a millisecond's worth, and at least two of the packets that the kernel hands on whole.
    whole = ("ip", "link", "set", "dev", INTERFACE, "gso_max_size", "16384")
    burst = max(1 << 15, int(bits_per_second / 8 / 1000))
    shaper = ("tbf", "rate", f"{bits_per_second:.0f}bit", "burst", str(burst), "latency", "100ms")
    for words in (whole, ("tc", "qdisc", "replace", "dev", INTERFACE, "root", *shaper)):
        subprocess.run([*within, *words], check=True, capture_output=True, text=True)


def _remove(host: Host) -> None:
    host.kill_all()
    _ip("netns", "delete", host.namespace)
    shutil.rmtree(OWN_FILES / host.namespace, ignore_errors=True)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
