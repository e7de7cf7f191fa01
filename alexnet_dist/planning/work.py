"""What is timed of this trainer, and in turns: its step, always on the same images, and the products of a step alone."""

import time
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F

from alexnet_dist.kernels.dropout import DropoutKey
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import Layer, Table
from alexnet_dist.parallel.loss import split_cross_entropy
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.parallel.process import set_precision
from alexnet_dist.settings import OptimizerSettings
from alexnet_dist.training.step import narrow_copies
from alexnet_dist.training.update import MomentumSGD

# So small a rate that nets stay as they begin: on one batch they would soon have learnt it by heart, and gradients so small that
# they are denormal numbers take a CPU forty times as long.
RATE = 1e-9
UPDATE = OptimizerSettings(lr=RATE, momentum=0.9, weight_decay=0.0005, bias_lr_multiplier=1.0, bias_weight_decay=True)


def take_turns(
    rivals: Mapping[str, Callable[[], float]], rounds: int, show: Callable[[int, int], None]
) -> dict[str, list[float]]:
    """What each rival measures: `rounds` times all of them one after another, so that a noisy minute hits all alike.

    A rival's call measures once and returns its rate or its time.
    """
    measured: dict[str, list[float]] = {name: [] for name in rivals}
    total = rounds * len(rivals)
    for done in range(total):
        name = list(rivals)[done % len(rivals)]
        show(done, total)
        measured[name].append(rivals[name]())
    return measured


def random_batch(table: Table, batch: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Images float32 [batch, 3, input, input], channels last as the feed's are, and labels int64 [batch]; always the same."""
    generator = torch.Generator().manual_seed(0)
    images = 50 * torch.randn(batch, 3, table.input_size, table.input_size, generator=generator)
    labels = torch.randint(table.classes, (batch,), generator=generator)
    return images.to(device).contiguous(memory_format=torch.channels_last), labels.to(device)


def training_step(
    net: Net,
    images: torch.Tensor,
    labels: torch.Tensor,
    group: dist.ProcessGroup,
    precision: str = "fp32",
) -> Callable[[], None]:
    """A training step of a net or a share of one, initialised here; `group` are the holders of its shares."""
    net.initialise(0)
    copies = narrow_copies(net, precision, net.native, added=False)
    optimizer = MomentumSGD(net, UPDATE, group, net.towers_held, copies, net.native)
    key = DropoutKey(0, torch.zeros((), dtype=torch.int64, device=images.device))  # as the trainer's: no copy in a step

    def step() -> None:
        autocast = set_precision(precision, images.device)
        with autocast():
            logits = net(images, key)
        loss, _ = split_cross_entropy(logits, labels, group, net.native)
        loss.backward()
        optimizer.step()
        net.zero_grad()

    return step


def products(layers: Sequence[Layer], batch: int, mesh: Mesh, dtype: torch.dtype) -> Callable[[], None]:
    """This process's convolutions and matrix products of a step, forward and both backward, and nothing else.

    What a layer reads has to be there: its values are random, and the image needs no gradient.
    """
    work = []
    for layer in layers:
        shape = layer.weight_shape
        weight = torch.randn(layer.filters // layer.towers, *shape[1:], device=mesh.device, dtype=dtype, requires_grad=True)
        size = layer.in_size + layer.pad_end - layer.pad
        x = torch.randn(batch, shape[1], *(() if layer.kind == "fc" else (size, size)), device=mesh.device, dtype=dtype)
        if layer.kind == "conv":
            x = x.contiguous(memory_format=torch.channels_last)
        work.append((layer, x.requires_grad_(layer.reads != "image"), weight))

    def step() -> None:
        for layer, x, weight in work:
            for _ in range(layer.towers // mesh.layout.shares):
                made = F.conv2d(x, weight, None, layer.stride, layer.pad) if layer.kind == "conv" else F.linear(x, weight)
                made.backward(made.detach())
                x.grad = weight.grad = None

    return step


def wait_for_gpu(mesh: Mesh) -> None:
    """Until what was launched is done; a CPU has done it already."""
    if mesh.device.type == "cuda":
        torch.cuda.synchronize(mesh.device)


def seconds_of(done: Callable[[], object], mesh: Mesh) -> float:
    """Of this process's work, which all processes begin at once."""
    mesh.peers.rest()
    dist.barrier(group=mesh.host_group)
    wait_for_gpu(mesh)
    begun = time.perf_counter()
    done()
    wait_for_gpu(mesh)
    return time.perf_counter() - begun
