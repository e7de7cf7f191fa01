"""One training step gives the same loss and gradients for every layout, and those of a plain torch.nn net."""

import copy
import itertools
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from alexnet_dist.kernels.dropout import DropoutKey, keep_mask
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import Table, build_table
from alexnet_dist.parallel.mesh import Mesh, join_mesh
from alexnet_dist.parallel.process import set_precision
from alexnet_dist.training.step import load_kernels, loss_of
from tests.distributed.processes import run_processes

IMAGES, SEED, STEP = 2, 5, 3
NARROW = ("model.layers.fc6.filters=256", "model.layers.fc7.filters=256")  # most parameters lie in the full connections
CPU = torch.device("cpu")
TOLERANCE = 1e-5
CLEAR = 1e-6  # some ten roundings of fp32

Gradients = dict[str, torch.Tensor]


def _table(overrides: list[str]) -> Table:
    return build_table(compose("train", overrides)["model"])


def _batch(table: Table, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = 60 * torch.randn(IMAGES, 3, table.input_size, table.input_size, generator=generator)
    return images, torch.randint(table.classes, (IMAGES,), generator=generator)


def _clear_batch(table: Table, net: nn.Sequential) -> int:
    """The seed of a batch on which no ReLU and no max-pooling of the net is so close to a tie that its rounding decides.

    At a tie one rounding sends a gradient another way, and then fp32 itself, and the plain net against its own double, differ in
    the third digit.
    """
    wide = copy.deepcopy(net).double()
    return next(seed for seed in itertools.count() if _is_clear(wide, _batch(table, seed)[0].double()))


@torch.no_grad()
def _is_clear(net: nn.Sequential, x: torch.Tensor) -> bool:
    for module in net:
        if isinstance(module, nn.ReLU):
            distance = x.abs()
        elif isinstance(module, nn.MaxPool2d):
            windows = x.unfold(2, module.kernel_size, module.stride).unfold(3, module.kernel_size, module.stride)
            first, second = windows.flatten(4).topk(2, dim=4).values.unbind(dim=4)
            distance = (first - second)[first > 0]  # no gradient comes from zeros behind a ReLU
        else:
            distance = x.new_tensor([torch.inf])
        if distance.min() < CLEAR * x.std():
            return False
        x = module(x)
    return True


def _steps(overrides: list[str], batch: int) -> list[tuple[int, int, float, Gradients]]:
    """One process's replica, share, loss and gradients: by torch's own operations, then by those compiled here."""
    table = _table(overrides)
    with join_mesh(table.towers, CPU, timeout=120) as mesh:
        return [_step(table, mesh, native, batch) for native in (False, load_kernels("on", CPU, print))]


def _step(table: Table, mesh: Mesh, native: bool, batch: int) -> tuple[int, int, float, Gradients]:
    net = Net(table, mesh.crossing, native)
    net.initialise(SEED)
    images, labels = (tensor.chunk(mesh.layout.replicas)[mesh.replica] for tensor in _batch(table, batch))
    network: nn.Module = net
    if mesh.layout.replicas > 1:
        network = DistributedDataParallel(net, process_group=mesh.replica_group)
    key = DropoutKey(SEED, STEP, first_row=mesh.replica * len(images))
    loss, _ = loss_of(network, images, labels, key, mesh, set_precision("fp32", CPU))
    loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    return mesh.replica, mesh.share, loss.item(), gradients


def _whole_step(results: list[tuple[int, int, float, Gradients]]) -> tuple[float, Gradients]:
    """The loss and the whole net's gradients, of what each process had; replicas must agree on the latter to the bit."""
    replicas: dict[int, list[Any]] = {}
    for replica, _, loss, gradients in results:
        replicas.setdefault(replica, []).append((loss, gradients))
    for shares in replicas.values():
        assert len({loss for loss, _ in shares}) == 1, "towers of one net end with the same loss"
    first = [gradients for _, gradients in replicas[0]]
    for shares in replicas.values():
        for ours, theirs in zip(first, (gradients for _, gradients in shares), strict=True):
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    mean_loss = sum(shares[0][0] for shares in replicas.values()) / len(replicas)
    return mean_loss, {name: torch.cat([gradients[name] for gradients in first]) for name in first[0]}


def _assert_close(loss: float, gradients: Gradients, expected_loss: float, expected: Gradients) -> None:
    assert loss == pytest.approx(expected_loss, rel=TOLERANCE)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert expected[name].norm() > 0, name
        assert (gradient - expected[name]).norm() <= TOLERANCE * expected[name].norm(), name


class SpatialNorm(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        window = F.avg_pool2d(F.pad(x**2, (2, 2, 2, 2)), 5, 1) * 25
        return x / (1 + 1e-3 / 25 * window) ** 0.75


class LinearDropout(nn.Module):
    """Drops with the masks that the package draws for all units at once."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * keep_mask(DropoutKey(SEED, STEP).of(self.layer, 0), *x.shape, 0.5, x.device)


def _norm(towers: int, channels: int) -> nn.Module:
    """A response norm whose windows stay within each tower's maps; of one tower they go on over the border."""

    class TowerNorm(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            norm = nn.LocalResponseNorm(5, 1e-4, 0.75, 2)
            return torch.cat([norm(maps) for maps in x.split(channels // towers, dim=1)], dim=1)

    return TowerNorm()


def _plain_paper() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 96, 11, 4, 2), nn.ReLU(), _norm(2, 96), nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, 1, 2, groups=2), nn.ReLU(), _norm(2, 256), nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 384, 3, 1, 1, groups=2), nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(),
        nn.Linear(9216, 256), nn.ReLU(), LinearDropout(5),
        nn.Linear(256, 256), nn.ReLU(), LinearDropout(6),
        nn.Linear(256, 1000),
    )  # fmt: skip


def _plain_net145() -> nn.Sequential:
    return nn.Sequential(
        nn.ZeroPad2d((0, 3, 0, 3)), nn.Conv2d(3, 96, 11, 4), _norm(2, 96), nn.MaxPool2d(3, 2), nn.ReLU(),
        nn.Conv2d(96, 256, 5, 1, 2, groups=2), nn.ReLU(), _norm(2, 256), SpatialNorm(), nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 384, 3, 1, 1, groups=2), nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1, groups=2), nn.MaxPool2d(3, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(9216, 256), nn.ReLU(), LinearDropout(5),
        nn.Linear(256, 256), nn.ReLU(), LinearDropout(6),
        nn.Linear(256, 1000),
    )  # fmt: skip


def _plain_tiny_of_four_towers(norm_towers: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 32, 7, 2, 2), nn.ReLU(), _norm(norm_towers, 32), nn.MaxPool2d(3, 2),
        nn.Conv2d(32, 64, 5, 1, 2, groups=4), nn.ReLU(), _norm(norm_towers, 64), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 96, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(96, 96, 3, 1, 1, groups=4), nn.ReLU(),
        nn.Conv2d(96, 64, 3, 1, 1, groups=4), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(),
        nn.Linear(256, 256), nn.ReLU(), LinearDropout(5),
        nn.Linear(256, 256), nn.ReLU(), LinearDropout(6),
        nn.Linear(256, 8),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "plain"),
    [
        (["model=paper", *NARROW], _plain_paper),
        (["model=net145", *NARROW], _plain_net145),
        (["model=tiny", "model.towers=4"], _plain_tiny_of_four_towers),
        (["model=tiny", "model.towers=4", "+model.operations.lrn.reads=all"], partial(_plain_tiny_of_four_towers, 1)),
    ],
    ids=["paper", "net145", "four towers", "norms over all towers"],
)
def test_a_step_is_the_same_for_1_2_and_4_processes_and_for_a_plain_net(overrides: list[str], plain: Any) -> None:
    table = _table(overrides)
    whole = Net(table)
    whole.initialise(SEED)
    reference = plain()
    with torch.no_grad():
        for ours, theirs in zip(whole.parameters(), reference.parameters(), strict=True):
            theirs.copy_(ours)
    batch = _clear_batch(table, reference)
    images, labels = _batch(table, batch)
    loss = F.cross_entropy(reference(images), labels)
    loss.backward()
    names = [name for name, _ in whole.named_parameters()]
    expected = {name: p.grad for name, p in zip(names, reference.parameters(), strict=True)}
    results = {processes: run_processes(_steps, processes, overrides, batch) for processes in (1, 2, 4)}
    for compiled in (False, True):
        steps = {processes: _whole_step([own[compiled] for own in results[processes]]) for processes in results}
        for processes in steps:
            _assert_close(*steps[processes], loss.item(), expected)
        for name, gradient in steps[1][1].items() if table.towers == 2 else ():  # of four, the sums are added in another order
            assert torch.equal(gradient, steps[2][1][name]), f"{name}: a tower's bits do not depend on who holds it"
