"""An activation and dropout as one operation, `alexnet::activate`, on a GPU; differentiable."""

from typing import Any

import torch
from torch import Tensor

from alexnet_dist.kernels.dropout import WORD, DropoutKey, mix, threshold
from alexnet_dist.kernels.operation import on_gpus
from alexnet_dist.kernels.tail import empty_maps


def activate(x: Tensor, bias: Tensor | None, activation: str, p: float | None, key: DropoutKey | None) -> Tensor:
    """Maps [N, C, H, W] (-> channels last) or units [N, C], with `bias` float32 [C] added: relu, tanh, sigmoid or "" of them, and
    what is dropped with probability p where there is a `key`."""
    if key is None or not p:
        return _activate(x, bias, activation, [], None)
    said = [mix(key.seed & WORD), key.first_row, key.first_unit, threshold(p), key.layer]
    return _activate(x, bias, activation, said, torch.as_tensor(key.step, device=x.device))


@on_gpus("alexnet::activate", "units.forward")
def _activate(x: Tensor, bias: Tensor | None, activation: str, masks: list[int], step: Tensor | None) -> Tensor:
    return _empty(x)


@on_gpus("alexnet::activate_backward", "units.backward")
def _activate_backward(
    gradient: Tensor, y: Tensor, biased: bool, activation: str, masks: list[int], step: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gradients of x and of bias (empty where there is none), from what `activate` gave."""
    return _empty(y), y.new_empty(y.shape[1] if biased else 0, dtype=torch.float32)


def _empty(x: Tensor) -> Tensor:
    return empty_maps(x, []) if x.dim() == 4 else x.new_empty(x.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, bias, ctx.activation, ctx.masks, step = inputs
    ctx.biased = bias is not None
    ctx.save_for_backward(output, step)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    y, step = ctx.saved_tensors
    of_x, of_bias = _activate_backward(gradient, y, ctx.biased, ctx.activation, ctx.masks, step)
    return of_x, of_bias if ctx.biased else None, None, None, None


_activate.register_autograd(_backward, setup_context=_keep)
