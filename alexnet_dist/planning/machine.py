"""A machine as a prediction sees it: rates, links and memory, from data sheets (conf/machine/*.yaml) or from a probe."""

from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from alexnet_dist.errors import UserError
from alexnet_dist.fields import Positive, strict

Precision = Literal["fp32", "tf32", "bf16"]
Rate = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(ge=0)]
Efficiency = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, config=strict)
class DeviceSettings:
    """A device by its data sheet: peak FLOP/s for each precision that it has, bytes/s and bytes of its memory.

    The efficiencies are the parts of those rates that convolutions, matrix products and memory traffic reach. `launch` are the
    seconds that the smallest operation takes.
    """

    name: str
    fp32: Rate
    tf32: Rate | None
    bf16: Rate | None
    bandwidth: Rate
    memory: Rate
    conv_efficiency: Efficiency
    fc_efficiency: Efficiency
    memory_efficiency: Efficiency
    launch: Seconds


@dataclass(frozen=True, config=strict)
class LinkSettings:
    """`bandwidth` in bytes/s, one direction, of which messages reach the part `efficiency`; `latency` in seconds a message.

    `copies`: how often a message passes it one after another: 2 where it is laid down in the host's memory on its way.
    """

    bandwidth: Rate
    latency: Seconds
    efficiency: Efficiency = 1.0
    copies: Positive = 1


@dataclass(frozen=True, config=strict)
class DescribedSettings:
    """`nodes` of so many `devices`: `link` joins those of a node, each device having its own; `network` joins the nodes, each
    having its own."""

    kind: Literal["described"]
    name: str
    nodes: Positive
    devices: Positive
    device: DeviceSettings
    link: LinkSettings | None
    network: LinkSettings | None


@dataclass(frozen=True, config=strict)
class HereSettings:
    """This machine, probed: `rounds` measurements of each figure, whose median counts.

    `link_rate` (bits/s) makes the link slower than it is, as Ethernet of that rate would; None leaves it as measured.
    """

    kind: Literal["here"]
    rounds: Positive
    link_rate: Rate | None


@plain_dataclass(frozen=True)
class Link:
    """A message of n bytes takes `latency` + n / `bandwidth` seconds, in both directions at once."""

    latency: float
    bandwidth: float

    def seconds(self, size: float) -> float:
        return self.latency + size / self.bandwidth


@plain_dataclass(frozen=True)
class Machine:
    """`conv` and `fc` are the FLOP/s that a device reaches in each kind of product, `streaming` the bytes/s of long passes over
    memory (weights, update), `operations` those of what follows a product (norms, pools, activations), counted as `model/cost.py`
    counts it; `launch` seconds the least that an operation takes; `memory` bytes of a device, None where it is not known."""

    name: str
    nodes: int
    devices: int
    conv: float
    fc: float
    streaming: float
    operations: float
    launch: float
    memory: float | None
    link: Link | None
    network: Link | None


# Of the bytes of Ethernet frames that carry 1500 each, those that are payload of TCP with time stamps.
ETHERNET_PAYLOAD = 1448 / 1514


def slowed(machine: Machine, bits_per_second: float) -> Machine:
    """The same machine on a cable of a lower rate between its devices."""
    assert machine.link is not None
    return replace(machine, link=Link(machine.link.latency, min(machine.link.bandwidth, bits_per_second / 8 * ETHERNET_PAYLOAD)))


_DESCRIBE = "describe it, as in '{bandwidth: 12.5e9, latency: 30e-6}'"


def described(settings: DescribedSettings, precision: Precision) -> Machine:
    """The machine of a description.

    Raises:
        UserError: its devices have no such precision, or there is no link where one is needed.
    """
    device = settings.device
    peaks = {"fp32": device.fp32, "tf32": device.tf32, "bf16": device.bf16}
    peak = peaks[precision]
    if peak is None:
        has = [name for name, rate in peaks.items() if rate]
        raise UserError(f"{device.name} has no {precision} in its data sheet: take precision={' or precision='.join(has)}")
    if settings.devices > 1 and settings.link is None:
        raise UserError(f"machine.link is not set, and {settings.name} has {settings.devices} devices a node: {_DESCRIBE}")
    if settings.nodes > 1 and settings.network is None:
        raise UserError(f"machine.network is not set, and {settings.name} has {settings.nodes} nodes: {_DESCRIBE}")
    return Machine(
        name=settings.name,
        nodes=settings.nodes,
        devices=settings.devices,
        conv=peak * device.conv_efficiency,
        fc=peak * device.fc_efficiency,
        streaming=device.bandwidth * device.memory_efficiency,
        operations=device.bandwidth * device.memory_efficiency,
        launch=device.launch,
        memory=device.memory,
        link=_link(settings.link),
        network=_link(settings.network),
    )


def _link(settings: LinkSettings | None) -> Link | None:
    if settings is None:
        return None
    return Link(settings.latency, settings.bandwidth * settings.efficiency / settings.copies)
