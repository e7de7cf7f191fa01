"""The update is the paper's rule, also across a change of the rate; the schedule falls when it should."""

from typing import Literal

import pytest
import torch
from torch import nn

from alexnet_dist.settings import LayerRates, OptimizerSettings, Phase, ScheduleSettings
from alexnet_dist.training.update import MomentumSGD, Schedule, lars_rates


def test_steps_follow_the_paper_s_rule_across_a_change_of_rate() -> None:
    settings = OptimizerSettings(lr=0.01, momentum=0.9, weight_decay=0.0005, bias_lr_multiplier=2, bias_weight_decay=False)
    generator = torch.Generator().manual_seed(1)
    net = nn.Linear(5, 3).double()
    optimizer = MomentumSGD(net, settings)
    expected = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    velocity = {name: torch.zeros_like(value) for name, value in expected.items()}
    for step in range(12):
        lr = 0.01 if step < 6 else 0.001
        optimizer.set_rates(lr)
        for name, parameter in net.named_parameters():
            parameter.grad = torch.randn(parameter.shape, dtype=torch.double, generator=generator)
            eps, decay = (2 * lr, 0.0) if name == "bias" else (lr, 0.0005)
            # v <- 0.9 v - 0.0005 eps w - eps gradient; w <- w + v  (paper, section 5)
            velocity[name] = 0.9 * velocity[name] - decay * eps * expected[name] - eps * parameter.grad
            expected[name] = expected[name] + velocity[name]
        optimizer.step()
        for name, parameter in net.named_parameters():
            assert torch.allclose(parameter, expected[name], rtol=1e-12, atol=1e-14), (step, name)


def test_a_layer_s_own_rates_and_those_of_phases_in_plain_torch() -> None:
    settings = OptimizerSettings(
        lr=0.1, momentum=0.9, weight_decay=0.01, bias_lr_multiplier=2, bias_weight_decay=False,
        layers={"0": LayerRates(lr=0.5), "1": LayerRates(weight_decay=0.0, momentum=0.5, bias_momentum=0.25)},
    )  # fmt: skip
    phases = (
        Phase(epoch=1, lr=0.1, layers={"1": LayerRates(bias_lr=3.0)}),
        Phase(epoch=2, bias_lr=1.0, layers={"0": LayerRates(freeze=True)}),
        Phase(epoch=3, layers={"0": LayerRates(freeze=False)}),
    )
    # By epoch, layer and parameter: rate, momentum, decay.
    rules = [
        {"0.weight": (0.05, 0.9, 0.01), "0.bias": (0.1, 0.9, 0), "1.weight": (0.1, 0.5, 0), "1.bias": (0.2, 0.25, 0)},
        {"0.weight": (0.005, 0.9, 0.01), "0.bias": (0.01, 0.9, 0), "1.weight": (0.01, 0.5, 0), "1.bias": (0.06, 0.25, 0)},
        {"0.weight": None, "0.bias": None, "1.weight": (0.01, 0.5, 0), "1.bias": (0.6, 0.25, 0)},
        {"0.weight": (0.005, 0.9, 0.01), "0.bias": (0.1, 0.9, 0), "1.weight": (0.01, 0.5, 0), "1.bias": (0.6, 0.25, 0)},
    ]
    generator = torch.Generator().manual_seed(1)
    net = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)).double()
    optimizer = MomentumSGD(net, settings)
    schedule = Schedule(ScheduleSettings(kind="constant", phases=phases), settings.lr)
    expected = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    velocity = {name: torch.zeros_like(value) for name, value in expected.items()}
    for step in range(8):
        optimizer.set_rates(schedule.learning_rate(step / 2), schedule.phase(step / 2))
        for name, parameter in net.named_parameters():
            parameter.grad = torch.randn(parameter.shape, dtype=torch.double, generator=generator)
            if rule := rules[step // 2][name]:
                lr, momentum, decay = rule
                velocity[name] = momentum * velocity[name] - lr * (parameter.grad + decay * expected[name])
                expected[name] = expected[name] + velocity[name]
        optimizer.step()
        for name, parameter in net.named_parameters():
            assert torch.allclose(parameter, expected[name], rtol=1e-12, atol=1e-14), (step, name)


def test_layers_with_the_same_rates_are_updated_together() -> None:
    settings = OptimizerSettings(lr=0.1, momentum=0.9, weight_decay=0.01, bias_lr_multiplier=2, bias_weight_decay=False)
    optimizer = MomentumSGD(nn.Sequential(*(nn.Linear(3, 3) for _ in range(5))), settings)
    assert [len(group["params"]) for group in optimizer.param_groups] == [5, 5]


def test_a_plateau_divides_the_rate_by_ten_three_times_at_most() -> None:
    schedule = Schedule(ScheduleSettings(kind="plateau", patience=2), base_lr=0.01)
    rates = []
    for error in (0.9, 0.8, 0.8, 0.81, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7):
        schedule.after_validation(error)
        rates.append(schedule.learning_rate(0))
    assert rates == pytest.approx([0.01, 0.01, 0.01] + [1e-3] * 3 + [1e-4] * 2 + [1e-5] * 5)


def test_a_plateau_s_state_goes_through_a_checkpoint() -> None:
    settings = ScheduleSettings(kind="plateau", patience=2)
    schedule, resumed = Schedule(settings, base_lr=0.01), Schedule(settings, base_lr=0.01)
    for error in (0.5, 0.6):
        schedule.after_validation(error)
    resumed.load_state(schedule.state())
    assert resumed.after_validation(0.6) is True


def test_other_kinds_know_nothing_of_a_plateau() -> None:
    schedule = Schedule(ScheduleSettings(kind="constant"), base_lr=0.01, reductions=2)
    assert schedule.learning_rate(0) == 0.01
    assert not any(schedule.after_validation(error) for error in (0.5, 0.6, 0.7, 0.8))
    later = Schedule(ScheduleSettings(kind="plateau", patience=2), base_lr=0.01)
    later.load_state(schedule.state())
    assert later.after_validation(0.9) is False


def test_steps_fall_at_their_epochs() -> None:
    schedule = Schedule(ScheduleSettings(kind="steps", at_epochs=(1, 2.5)), base_lr=1.0)
    assert [schedule.learning_rate(epochs) for epochs in (0, 0.99, 1, 2.4, 2.5, 9)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_a_rate_that_changes_at_every_step_leaves_the_velocity_as_it_was() -> None:
    settings = OptimizerSettings(lr=1.0, momentum=0.5, weight_decay=0.0, bias_lr_multiplier=1, bias_weight_decay=False)
    net = nn.Linear(1, 1, bias=True).double()
    nn.init.zeros_(net.weight)
    optimizer = MomentumSGD(net, settings)
    for lr in (1.0, 0.0, 3.0):
        optimizer.set_rates(lr)
        net.weight.grad, net.bias.grad = torch.full((1, 1), -1.0).double(), torch.zeros(1).double()
        optimizer.step()
    assert net.weight.item() == 1 + 0.5 + (0.25 + 3)


@pytest.mark.parametrize("native", [True, False])
def test_a_row_s_bits_do_not_depend_on_the_rows_beside_it(native: bool) -> None:
    generator = torch.Generator().manual_seed(2)
    settings = OptimizerSettings(lr=0.3, momentum=0.9, weight_decay=0.01, bias_lr_multiplier=1, bias_weight_decay=False)
    weight, *gradients = (torch.randn(90, 1003, generator=generator) for _ in range(4))
    ends = []
    for rows in (slice(None), slice(45, None)):
        net = nn.Linear(1003, len(weight[rows]), bias=False)
        net.weight.data.copy_(weight[rows])
        optimizer = MomentumSGD(net, settings, native=native)
        for gradient in gradients:
            net.weight.grad = gradient[rows].clone()
            optimizer.step()
        ends.append((net.weight.data, optimizer.state[net.weight]["momentum_buffer"]))
    for whole, half in zip(*ends, strict=True):
        assert torch.equal(whole[45:], half)


def test_a_step_that_is_not_finite_is_left_out() -> None:
    settings = OptimizerSettings(lr=0.3, momentum=0.0, weight_decay=0.01, bias_lr_multiplier=1, bias_weight_decay=False)
    net = nn.Linear(3, 2)
    optimizer = MomentumSGD(net, settings, native=True)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    for finite in (0.0, 1.0):
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, torch.nan if not finite else 1.0)
        optimizer.step(torch.tensor(finite))
        assert all(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True)) == (not finite)


def test_a_weight_or_gradient_of_zeros_takes_plain_steps_under_lars() -> None:
    weights, gradients = [torch.zeros(2, 2), torch.ones(2, 2)], [torch.ones(2, 2), torch.zeros(2, 2)]
    assert lars_rates(weights, gradients, 0.001, 0.0, None, 1).tolist() == [1.0, 1.0]


def test_a_polynomial_falls_to_nothing_at_its_last_epoch() -> None:
    schedule = Schedule(ScheduleSettings(kind="polynomial", power=2, epochs=10), base_lr=8.0)
    assert [schedule.learning_rate(epochs) for epochs in (0, 5, 9, 10, 11)] == pytest.approx([8, 2, 0.08, 0, 0])


@pytest.mark.parametrize("kind", ["constant", "steps", "plateau", "polynomial"])
def test_every_kind_warms_up_linearly_and_then_is_as_without(kind: Literal["constant", "steps", "plateau", "polynomial"]) -> None:
    cold, warm = (
        Schedule(ScheduleSettings(kind=kind, at_epochs=(3,), epochs=9, warmup_epochs=epochs, warmup_from=0.2), base_lr=2.0)
        for epochs in (0, 4)
    )
    factors = [warm.learning_rate(epochs) / cold.learning_rate(epochs) for epochs in (0, 1, 2, 3, 4, 5)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
