"""The layers that a share of the net is made of."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from alexnet_dist.kernels.tail import Kernels, Step, Tail, join_operations
from alexnet_dist.model.dropout import DropoutKey, keep_mask
from alexnet_dist.model.joint import Crossing, product, product_of_all
from alexnet_dist.model.share import Share
from alexnet_dist.model.table import Layer, Operation

ACTIVATIONS = ("relu", "tanh", "sigmoid")


class TowerLayer(nn.Module):
    """A convolution or a full connection with what follows it, for the towers of `share`.

    It holds the share's rows of weight and bias, and computes tower by tower, each with its own rows: what a tower computes is
    the same, to the bit, whether it has a process of its own or not.
    """

    def __init__(self, layer: Layer, position: int, share: Share, kernels: Kernels | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.position = position
        self._kernels = kernels
        self._joined = join_operations(layer.then)
        held = layer.towers // share.count
        self.towers = range(share.index * held, (share.index + 1) * held)
        rows = share.rows(layer.filters)
        self.weight = nn.Parameter(torch.empty(rows.stop - rows.start, *layer.weight_shape[1:]))
        self.bias = nn.Parameter(torch.empty(rows.stop - rows.start))
        # Called with each activation's kind, tower and output (of a Tail, its whole output), while somebody watches.
        self.watch: Callable[[str, int, torch.Tensor], None] | None = None

    def initialise(self, seed: int) -> None:
        """Draw N(0, weight_std) weights and set constant biases (paper, section 5).

        A generator for each (seed, layer, tower) makes the weights the same whatever the share.
        """
        with torch.no_grad():
            for tower, weight in zip(self.towers, self.weight.chunk(len(self.towers)), strict=True):
                generator = torch.Generator().manual_seed((seed * 1_000 + self.position) * 1_000 + tower)
                weight.copy_(torch.randn(weight.shape, generator=generator) * self.layer.weight_std)
            self.bias.fill_(self.layer.bias)

    def forward(self, inputs: Sequence[torch.Tensor], key: DropoutKey | None, crossing: Crossing) -> list[torch.Tensor]:
        """The maps of each held tower [N, C, H, W] or [N, units] (before the first layer the images) -> what each makes of those
        that it reads: [N, filters / towers, H', W'] or [N, filters / towers]."""
        if self.layer.reads == "all" and self.layer.towers > 1:
            outputs = product_of_all(self.layer, self.towers, inputs, self.weight, self.bias, crossing)
        else:
            rows = zip(inputs, self.weight.chunk(len(inputs)), self.bias.chunk(len(inputs)), strict=True)
            outputs = [product(self.layer, x, weight, bias) for x, weight, bias in rows]
        joined = self._kernels is not None and self._kernels.take(outputs[0])
        steps: Sequence[Step] = self._joined if joined else self.layer.then
        for step in steps:
            if isinstance(step, Tail):
                assert self._kernels is not None
                outputs = [self._kernels.apply(x, step) for x in outputs]
            elif step.reads == "all":
                outputs = self._norm_across_towers(step, outputs, crossing)
            else:
                outputs = [self._follow(step, x, tower, key) for x, tower in zip(outputs, self.towers, strict=True)]
            if self.watch is not None and (activation := activation_of(step)):
                for x, tower in zip(outputs, self.towers, strict=True):
                    self.watch(activation, tower, x)
        return outputs

    def _follow(self, operation: Operation, x: torch.Tensor, tower: int, key: DropoutKey | None) -> torch.Tensor:
        options = operation.options
        match operation.kind:
            case "identity":
                return x
            case "relu":
                return F.relu(x)
            case "tanh":
                return torch.tanh(x)
            case "sigmoid":
                return torch.sigmoid(x)
            case "max_pool":
                return F.max_pool2d(x, *_window(operation), ceil_mode=bool(options.get("ceil")))
            case "avg_pool":
                return F.avg_pool2d(x, *_window(operation), ceil_mode=bool(options.get("ceil")))
            case "response_norm":
                return response_norm(x, int(options["size"]), options["alpha"], options["beta"], options["k"])
            case "spatial_norm":
                return spatial_norm(x, int(options["size"]), options["alpha"], options["beta"], options["k"])
            case "dropout":
                # As in the paper (section 4.2): outputs are dropped in training and scaled by 1 - p in testing.
                if key is None:
                    return x * (1 - options["p"])
                units = slice(tower * x.shape[1], (tower + 1) * x.shape[1])
                mask = keep_mask(key, self.position, x.shape[0], units, options["p"], x.device)
                return x * mask.view(*mask.shape, *[1] * (x.dim() - 2))
        raise AssertionError(operation.kind)

    def _norm_across_towers(self, operation: Operation, maps: list[torch.Tensor], crossing: Crossing) -> list[torch.Tensor]:
        """The response norm as if the maps of all towers lay in one; of the other towers the maps at the edges are fetched."""
        reach, options = operation.reach, operation.options
        edges = torch.cat([edge for x in maps for edge in (x[:, :reach], x[:, x.shape[1] - reach :])], dim=1)
        first_and_last = crossing(edges).chunk(2 * self.layer.towers, dim=1)
        outputs = []
        for tower, x in zip(self.towers, maps, strict=True):
            before = first_and_last[2 * tower - 1 : 2 * tower]
            after = first_and_last[2 * tower + 2 : 2 * tower + 3]
            around = torch.cat([*before, x, *after], dim=1)
            normed = response_norm(around, int(options["size"]), options["alpha"], options["beta"], options["k"])
            outputs.append(normed[:, len(before) * reach :][:, : x.shape[1]])
        return outputs

    def extra_repr(self) -> str:
        return f"{self.layer.kind}, reads {self.layer.reads}, towers {self.towers.start} to {self.towers.stop - 1}"


def _window(pool: Operation) -> tuple[int, int, int]:
    return int(pool.options["kernel"]), int(pool.options["stride"]), int(pool.options["pad"])


def activation_of(step: Step) -> str | None:
    """The kind of the activation that a step is or, as a Tail, holds; None where it has none."""
    if isinstance(step, Tail):
        return "relu" if step.relu_first or step.relu_last else None
    return step.kind if step.kind in ACTIVATIONS else None


def response_norm(x: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:
    """Local response normalisation across maps (paper, section 3.3), of float [N, C, H, W].

    b = a / (k + alpha / size * sum of a^2 over `size` neighbouring maps) ^ beta, the maps being one tower's: the authors'
    program divides alpha by the window, and so does torch.nn.LocalResponseNorm, whose results this gives several times faster.
    """
    return _ResponseNorm.apply(x, size, alpha, beta, k)


def spatial_norm(x: torch.Tensor, size: int, alpha: float, beta: float, k: float) -> torch.Tensor:
    """Response normalisation over a size x size window of the same map (layers-145.cfg, rnorm2b), of float [N, C, H, W].

    b = a / (k + alpha / size^2 * sum of a^2 over the window, zeros outside) ^ beta.
    """
    mean_square = F.avg_pool2d(x.float().square(), size, stride=1, padding=size // 2, count_include_pad=True)
    return (x.float() * (k + alpha * mean_square).pow(-beta)).to(x.dtype)


class _ResponseNorm(torch.autograd.Function):
    """The norm by shifted sums. Forward, it rounds exactly as torch.nn.LocalResponseNorm does.

    A last bit that differs can pick another pixel in a max-pooling, and then a gradient differs in its third digit.
    """

    @staticmethod
    def forward(ctx, x, size, alpha, beta, k):  # type: ignore[no-untyped-def]
        wide = x if x.dtype == torch.float64 else x.float()
        scale = _window_sum(wide.square(), size).div_(size).mul_(alpha).add_(k)
        power = scale.pow(beta)
        ctx.save_for_backward(x, scale, power)
        ctx.size, ctx.factor = size, 2 * alpha * beta / size
        return (wide / power).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        x, scale, power = ctx.saved_tensors
        wide = x.to(scale.dtype)
        direct = gradient.to(scale.dtype) / power
        through = _window_sum((direct * wide).div_(scale), ctx.size).mul_(wide).mul_(ctx.factor)
        return direct.sub_(through).to(x.dtype), None, None, None, None


def _window_sum(x: torch.Tensor, size: int) -> torch.Tensor:
    """Sum of each map [N, C, H, W] and its size // 2 neighbours on either side, added from the first map to the last."""
    total = torch.zeros_like(x)
    maps = x.shape[1]
    for offset in range(-min(size // 2, maps - 1), min(size // 2, maps - 1) + 1):
        first, last = max(0, -offset), min(maps, maps - offset)
        total[:, first:last] += x[:, first + offset : last + offset]
    return total
