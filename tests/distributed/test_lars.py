"""LARS takes the norms of whole parameters, of which each process holds its rows."""

import torch
import torch.distributed as dist

from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.products import Crossing
from alexnet_dist.model.table import build_table
from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.settings import OptimizerSettings
from alexnet_dist.training.update import MomentumSGD
from tests.distributed.processes import run_processes

SETTINGS = OptimizerSettings(
    kind="lars", trust=0.001, lr=4.0, momentum=0.9, weight_decay=0.0005, bias_lr_multiplier=0.01, bias_weight_decay=False
)
RATES = (0.4, 1.3, 2.2, 4.0, 1.0)  # a warm-up and a fall


def _net(crossing: Crossing | None = None) -> Net:
    net = Net(build_table(compose("train", ["model=tiny", "model.towers=4"])["model"]), crossing)
    net.initialise(1)
    return net


def _gradients(step: int) -> dict[str, torch.Tensor]:
    """Of the whole net, by name."""
    generator = torch.Generator().manual_seed(step)
    shapes = _net().table.parameter_shapes()
    return {name: 0.01 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _in_a_process() -> dict[str, torch.Tensor]:
    with join_mesh(4, torch.device("cpu"), timeout=60) as mesh:
        return _steps(mesh.crossing, mesh.tower_group)


def _steps(crossing: Crossing | None, tower_group: dist.ProcessGroup | None) -> dict[str, torch.Tensor]:
    """The parameters that a share of the net holds after all steps."""
    net = _net(crossing)
    optimizer = MomentumSGD(net, SETTINGS, tower_group, net.towers_held)
    for step, lr in enumerate(RATES):
        optimizer.set_rates(lr)
        gradients = _gradients(step)
        for name, parameter in net.named_parameters():
            parameter.grad = gradients[name][net.share.rows(len(gradients[name]))].clone()
        optimizer.step()
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


def _by_the_formula() -> dict[str, torch.Tensor]:
    weights = {name: parameter.detach().double() for name, parameter in _net().named_parameters()}
    velocities = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for step, lr in enumerate(RATES):
        for name, gradient in _gradients(step).items():
            weight, gradient = weights[name], gradient.double()
            if name.endswith("bias"):
                local, decay = 0.01, 0.0
            else:
                local, decay = 0.001 * weight.norm() / (gradient.norm() + 0.0005 * weight.norm()), 0.0005
            velocities[name] = 0.9 * velocities[name] - lr * local * (gradient + decay * weight)
            weights[name] = weight + velocities[name]
    return weights


def test_the_steps_are_those_of_the_formula_for_1_2_and_4_processes() -> None:
    expected = _by_the_formula()
    start = dict(_net().named_parameters())
    layouts = [[_steps(None, None)], run_processes(_in_a_process, 2), run_processes(_in_a_process, 4)]
    for shares in layouts:
        for name, weight in expected.items():
            ours = torch.cat([parameters[name] for parameters in shares])
            moved = (weight - start[name]).norm()
            assert moved > 0, name
            assert (ours - weight).norm() < 1e-5 * moved, (name, len(shares))
            assert torch.equal(ours, layouts[0][0][name]), (name, len(shares))
