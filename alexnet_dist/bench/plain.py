"""The same nets in plain torch.nn, as scripts have them: the step's rivals."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from alexnet_dist.errors import UserError
from alexnet_dist.model.table import Operation, Table

Norm = Callable[[Operation], nn.Module]


class ShiftedSumsNorm(nn.Module):
    """Local response normalisation in operations that torch.compile can fuse: five shifted sums and rsqrt (beta 0.75)."""

    def __init__(self, operation: Operation) -> None:
        """Raises UserError for another power."""
        super().__init__()
        options = operation.options
        if options["beta"] != 0.75:
            raise UserError(f"the compiled rival's norm has beta 0.75, and the table's has {options['beta']}: take model=paper")
        self.size, self.alpha, self.k = int(options["size"]), options["alpha"], options["k"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float [N, C, H, W] -> the same."""
        maps, reach = x.shape[1], self.size // 2
        squares = F.pad(x * x, (0, 0, 0, 0, reach, reach))
        total = squares[:, :maps]
        for shift in range(1, self.size):
            total = total + squares[:, shift : shift + maps]
        root = (self.k + self.alpha / self.size * total).rsqrt()
        return x * root * root.sqrt()


def torch_norm(operation: Operation) -> nn.Module:
    """torch.nn.LocalResponseNorm."""
    options = operation.options
    return nn.LocalResponseNorm(int(options["size"]), options["alpha"], options["beta"], options["k"])


def plain_net(table: Table, norm: Norm) -> nn.Sequential:
    """A table's net as one module: grouped convolutions where a layer reads its own tower, everything else whole.

    Raises:
        UserError: the table holds an operation that torch.nn has no module for.
    """
    modules: list[nn.Module] = []
    for layer in table.layers:
        if layer.kind == "conv":
            groups = table.towers if layer.reads == "own" else 1
            inputs = layer.weight_shape[1] * groups
            if layer.pad != layer.pad_end:
                modules.append(nn.ZeroPad2d((layer.pad, layer.pad_end, layer.pad, layer.pad_end)))
            pad = layer.pad if layer.pad == layer.pad_end else 0
            modules.append(nn.Conv2d(inputs, layer.filters, layer.weight_shape[2], layer.stride, pad, groups=groups))
        elif layer.reads == "own" and table.towers > 1:
            raise UserError(f"{layer.name} reads its own tower, which no linear layer of torch's does: take model=paper")
        else:
            modules += [nn.Flatten(), nn.Linear(layer.weight_shape[1], layer.filters)]
        modules += [_module(operation, norm) for operation in layer.then]
    return nn.Sequential(*modules)


def _module(operation: Operation, norm: Norm) -> nn.Module:
    options = operation.options
    match operation.kind:
        case "identity":
            return nn.Identity()
        case "relu":
            return nn.ReLU(inplace=True)
        case "tanh":
            return nn.Tanh()
        case "sigmoid":
            return nn.Sigmoid()
        case "max_pool":
            return nn.MaxPool2d(options["kernel"], options["stride"], options["pad"], ceil_mode=options["ceil"])
        case "avg_pool":
            return nn.AvgPool2d(options["kernel"], options["stride"], options["pad"], ceil_mode=options["ceil"])
        case "response_norm":
            return norm(operation)
        case "dropout":
            return nn.Dropout(options["p"])
    raise UserError(f"the plain rivals have no {operation.kind}: take another model, such as model=paper")
