"""The response norm over a window of the same map as one operation, `alexnet::spatial_norm`, on a GPU; differentiable."""

from typing import Any

from torch import Tensor

from alexnet_dist.kernels.operation import on_gpus
from alexnet_dist.kernels.tail import empty_maps


@on_gpus("alexnet::spatial_norm", "spatial_norm.forward")
def spatial_norm(x: Tensor, norm: list[float]) -> tuple[Tensor, Tensor]:
    """Maps [N, C, H, W] -> normed (`norms.spatial_norm`; `norm` is [size, alpha, beta, k]), and float32 scales."""
    return empty_maps(x, []), empty_maps(x, []).float()


@on_gpus("alexnet::spatial_norm_backward", "spatial_norm.backward")
def _spatial_norm_backward(gradient: Tensor, x: Tensor, scale: Tensor, norm: list[float]) -> Tensor:
    return empty_maps(x, [])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, ctx.norm = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(x, output[1])


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
    return _spatial_norm_backward(gradient, *ctx.saved_tensors, ctx.norm), None


spatial_norm.register_autograd(_backward, setup_context=_keep)
