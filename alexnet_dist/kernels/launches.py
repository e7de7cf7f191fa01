"""What each fused operation launches on a GPU, for those who count it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from alexnet_dist.kernels.tail import lies_in_pixels


class Launches(NamedTuple):
    """So many kernels; before them each of `copied` is laid out anew, with one more; `unread` are arguments only written."""

    kernels: int
    copied: Sequence[Tensor] = ()
    unread: Sequence[Tensor] = ()


def launches(operation: str, given: Any) -> Launches:
    """Of `alexnet::<operation>` with its arguments. A bias's gradient is a sum over parts, with a kernel of its own."""
    match operation, given:
        case "follow", [x, *_]:
            return Launches(1, [] if lies_in_pixels(x) else [x])
        case "follow_backward", [_, x, bias, *_]:
            return Launches(1 + (bias is not None), [] if lies_in_pixels(x) else [x])
        case "activate", [x, *_]:
            return Launches(1, [] if (lies_in_pixels(x) if x.dim() == 4 else x.stride(1) == 1) else [x])
        case "activate_backward", [gradient, y, biased, *_]:
            lies = y.dim() != 4 or gradient.stride(2) == gradient.stride(3) * y.shape[3]
            return Launches(1 + biased, [] if lies else [gradient])
        case "update", [weights, _, gradients, copies, *_]:
            pairs = zip(weights, gradients, strict=True)
            otherwise = [gradient for weight, gradient in pairs if gradient.numel() and gradient.stride() != weight.stride()]
            return Launches(1, otherwise, copies)
    return Launches(1)
