"""The update as one operation, `alexnet::update`: in plain torch, and for GPUs one kernel over all parameters."""

import torch
from torch import Tensor

from alexnet_dist.kernels.operation import Operation, of_cuda


def update_by_torch(
    weights: list[Tensor],
    velocities: list[Tensor],
    gradients: list[Tensor],
    copies: list[Tensor],
    numbers: Tensor,
    finite: Tensor | None,
) -> None:
    """v <- momentum v - rate (gradient + decay w); w <- w + v (paper, section 5); copy <- w, where a copy is not empty.

    `numbers` float64 [4, parameters]: rate, momentum and decay of each parameter, and 1, or 0 for one that is frozen. Where the
    scalar `finite` is 0 nothing changes. An element is rounded alike whatever rows a process holds: torch's fused kernel for
    CPUs rounds a tensor's last few elements otherwise.
    """
    if finite is not None and not finite:
        return
    rate, momentum, decay, moves = numbers
    factors = torch.stack([-rate, momentum, -rate * decay, moves], dim=1).to(weights[0].dtype)  # which may overflow
    rules = zip(weights, velocities, gradients, copies, factors.tolist(), strict=True)
    for weight, velocity, gradient, copy, (along, momentum, shrink, moves) in rules:
        if moves:
            velocity.mul_(momentum).add_(weight, alpha=shrink).add_(gradient, alpha=along)
            weight.add_(velocity)
        if copy.numel():
            copy.copy_(weight)


update = Operation("alexnet::update", update_by_torch, mutates_args=("weights", "velocities", "copies"))
update.register_kernel("cpu")(update_by_torch)
update.register_kernel("cuda")(of_cuda("update.update"))
update.register_fake(lambda *_: None)
