"""The update is the paper's rule, also across a change of the rate; the schedule falls when it should."""

import pytest
import torch
from torch import nn

from alexnet_dist.settings import OptimizerSettings, ScheduleSettings
from alexnet_dist.training.update import Schedule, build_optimizer, set_learning_rate


def test_steps_follow_the_paper_s_rule_across_a_change_of_rate() -> None:
    settings = OptimizerSettings(lr=0.01, momentum=0.9, weight_decay=0.0005, bias_lr_multiplier=2, bias_weight_decay=False)
    generator = torch.Generator().manual_seed(1)
    net = nn.Linear(5, 3).double()
    optimizer = build_optimizer(net, settings)
    expected = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    velocity = {name: torch.zeros_like(value) for name, value in expected.items()}
    for step in range(12):
        lr = 0.01 if step < 6 else 0.001
        set_learning_rate(optimizer, lr)
        for name, parameter in net.named_parameters():
            parameter.grad = torch.randn(parameter.shape, dtype=torch.double, generator=generator)
            eps, decay = (2 * lr, 0.0) if name == "bias" else (lr, 0.0005)
            # v <- 0.9 v - 0.0005 eps w - eps gradient; w <- w + v  (paper, section 5)
            velocity[name] = 0.9 * velocity[name] - decay * eps * expected[name] - eps * parameter.grad
            expected[name] = expected[name] + velocity[name]
        optimizer.step()
        for name, parameter in net.named_parameters():
            assert torch.allclose(parameter, expected[name], rtol=1e-12, atol=1e-14), (step, name)


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


def test_steps_fall_at_their_epochs() -> None:
    schedule = Schedule(ScheduleSettings(kind="steps", at_epochs=(1, 2.5)), base_lr=1.0)
    assert [schedule.learning_rate(epochs) for epochs in (0, 0.99, 1, 2.4, 2.5, 9)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
