"""The rivals of the step: this trainer's and those of plain torch, each as one step on the same batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from alexnet_dist.bench.plain import ShiftedSumsNorm, plain_net, torch_norm
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import Table
from alexnet_dist.parallel.crossing import Crossing
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.planning.work import RATE, products, training_step

OURS, OURS_WAITING = "this trainer, a process a tower", "this trainer, waiting for crossings"
OURS_BF16, OURS_ONE = "the same in bf16", "this trainer, one process"
EAGER, COMPILED = "plain net", "plain net, compiled"
PARALLEL, PARALLEL_COMPILED = "data parallel", "data parallel, compiled"
PRODUCTS, PRODUCTS_BF16 = "products alone", "products alone, bf16"


@dataclass(frozen=True)
class Rival:
    """`step` takes one step; `everyone`: in all processes at once, each with its share of the cores, else in the first alone.

    `keeps_memory`: with `keep_freed_memory`, as this trainer runs; without, as other programs do unless they are told to.
    """

    step: Callable[[], object]
    everyone: bool
    keeps_memory: bool = True


def all_rivals(
    table: Table, ours: Net, images: torch.Tensor, labels: torch.Tensor, mesh: Mesh, keep_memory: bool
) -> dict[str, Rival]:
    """The rivals by name, the same in every process."""
    step = training_step(ours, images, labels, mesh.tower_group)
    # A net of its own, which may keep copies of its weights and gradients in bf16.
    bf16 = Net(table, mesh.crossing, ours.native).to(images.device)
    eager = plain_net(table, torch_norm).to(memory_format=torch.channels_last)
    fused = plain_net(table, ShiftedSumsNorm).to(memory_format=torch.channels_last)
    rivals = {
        OURS: Rival(step, everyone=True),
        OURS_BF16: Rival(training_step(bf16, images, labels, mesh.tower_group, "bf16"), everyone=True),
        PRODUCTS: Rival(products(table.layers, len(images), mesh, torch.float32), everyone=True),
        PRODUCTS_BF16: Rival(products(table.layers, len(images), mesh, torch.bfloat16), everyone=True),
        EAGER: Rival(step_of_plain(eager, images, labels), False, keep_memory),
        COMPILED: Rival(step_of_plain(compiled(fused), images, labels), False, keep_memory),
    }
    processes = mesh.layout.processes
    if processes > 1:
        alone = dist.new_subgroups_by_enumeration([[rank] for rank in range(processes)])[0]
        assert isinstance(alone, dist.ProcessGroup)
        whole = Net(table, native=ours.native).to(images.device)
        rivals[OURS_WAITING] = Rival(waiting(step, mesh.crossing), everyone=True)
        rivals[OURS_ONE] = Rival(training_step(whole, images, labels, alone), everyone=False)
        part = slice(mesh.rank * len(images) // processes, (mesh.rank + 1) * len(images) // processes)
        for name, norm in ((PARALLEL, torch_norm), (PARALLEL_COMPILED, ShiftedSumsNorm)):
            # Not channels last: DDP's buckets would have to lay each gradient out anew.
            net: nn.Module = DistributedDataParallel(plain_net(table, norm).to(images.device), gradient_as_bucket_view=True)
            net = compiled(net) if name == PARALLEL_COMPILED else net
            rivals[name] = Rival(step_of_plain(net, images[part], labels[part]), True, keep_memory)
    return rivals


def compiled(net: nn.Module) -> nn.Module:
    """torch.compile with its own defaults."""
    return cast(nn.Module, torch.compile(net))


def waiting(step: Callable[[], object], crossing: Crossing) -> Callable[[], None]:
    """The same step, with nothing computed while maps travel."""

    def wait() -> None:
        crossing.overlap = False
        step()
        crossing.overlap = True

    return wait


def step_of_plain(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """A training step of a plain net with torch's fused SGD."""
    net = net.to(images.device)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9, weight_decay=0.0005, fused=True)

    def step() -> None:
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
