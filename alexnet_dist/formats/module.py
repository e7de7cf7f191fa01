"""A net as the source of one plain torch.nn.Module, which needs nothing of this package."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from alexnet_dist.model.table import Layer, Operation, Table

_HEAD = '''"""{title}

It needs torch alone. The parameters are in {stem}.pt beside this file.

    from {stem} import load
    net = load()
    probabilities = net(images).softmax(dim=1)

{expects}
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

'''

_RESPONSE_NORM = '''
def response_norm(x, groups, size, alpha, beta, k):
    """Local response normalisation whose windows stay within each of `groups` equal parts of the maps."""
    n, maps, height, width = x.shape
    x = x.reshape(n * groups, maps // groups, height, width)
    return F.local_response_norm(x, size, alpha, beta, k).reshape(n, maps, height, width)

'''

_SPATIAL_NORM = '''
def spatial_norm(x, size, alpha, beta, k):
    """Response normalisation over a size x size window of the same map, zeros outside."""
    return x * (k + alpha * F.avg_pool2d(x.square(), size, stride=1, padding=size // 2)).pow(-beta)

'''

_GROUPED_LINEAR = '''
class GroupedLinear(nn.Module):
    """A full connection of each of `groups` equal parts of the inputs to its part of the outputs."""

    def __init__(self, inputs, outputs, groups):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(outputs, inputs // groups))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x):
        parts = zip(*(tensor.chunk(self.groups, dim) for tensor, dim in ((x, 1), (self.weight, 0), (self.bias, 0))))
        return torch.cat([F.linear(*part) for part in parts], dim=1)

'''

_LOAD = '''

def load(path=Path(__file__).with_name("{stem}.pt")):
    """The net for testing, with its classes by label in `classes` and the whole mean image in `mean_image`."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    net = Net()
    net.load_state_dict(saved["parameters"])
    net.classes, net.mean_image = saved["classes"], saved["mean_image"]
    return net.eval()
'''


def source_of(table: Table, stem: str, title: str, expects: str) -> str:
    """The source of a module file `stem`.py with the classes' `Net` and `load`; `expects` says what images it takes.

    The net is that of testing, where dropout scales; its parameters have the whole net's names. It subtracts `mean`, float32
    [3, input, input], from the images.
    """
    kinds = {operation.kind for layer in table.layers for operation in layer.then}
    grouped = any(layer.kind == "fc" and _groups(layer) > 1 for layer in table.layers)
    parts = [
        _HEAD.format(title=_quoted(title), stem=stem, expects=_quoted(expects)),
        _RESPONSE_NORM if "response_norm" in kinds else "",
        _SPATIAL_NORM if "spatial_norm" in kinds else "",
        _GROUPED_LINEAR if grouped else "",
        _class_of(table),
        _LOAD.format(stem=stem),
    ]
    return "".join(parts)


def _quoted(text: str) -> str:
    """As it stands in a docstring."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


def build(source: str, parameters: Mapping[str, torch.Tensor], mean: torch.Tensor) -> nn.Module:
    """The net of a source, with the whole net's parameters and the centre of the mean image, for testing."""
    namespace: dict[str, Any] = {"__file__": "net.py", "__name__": "net"}
    exec(compile(source, "net.py", "exec"), namespace)
    net = namespace["Net"]()
    net.load_state_dict({**parameters, "mean": mean})
    return net.eval()


def _class_of(table: Table) -> str:
    size = table.input_size
    made = [f"self.{layer.name} = {_made(layer)}" for layer in table.layers]
    done = ["x = images - self.mean"]
    flat = False
    for layer in table.layers:
        if layer.kind == "fc" and not flat:
            done.append("x = x.flatten(1)")
            flat = True
        if layer.pad != layer.pad_end:
            done.append(f"x = F.pad(x, ({layer.pad}, {layer.pad_end}, {layer.pad}, {layer.pad_end}))")
        done.append(f"x = self.{layer.name}(x)")
        done += [f"x = {followed}" for operation in layer.then if (followed := _followed(operation, table.towers))]
    indent = "\n        "
    return (
        "\nclass Net(nn.Module):\n"
        f"    def __init__(self):{indent}super().__init__(){indent}"
        f'self.register_buffer("mean", torch.zeros(3, {size}, {size})){indent}{indent.join(made)}\n\n'
        f"    def forward(self, images):{indent}{indent.join(done)}{indent}return x\n"
    )


def _groups(layer: Layer) -> int:
    return layer.towers if layer.reads == "own" else 1


def _made(layer: Layer) -> str:
    groups = f", groups={_groups(layer)}" if _groups(layer) > 1 else ""
    if layer.kind == "fc":
        inputs = layer.fan_in * _groups(layer)
        return f"{'GroupedLinear' if groups else 'nn.Linear'}({inputs}, {layer.filters}{groups})"
    pad = layer.pad if layer.pad == layer.pad_end else 0
    return f"nn.Conv2d({layer.in_channels}, {layer.filters}, {layer.kernel}, stride={layer.stride}, padding={pad}{groups})"


def _followed(operation: Operation, towers: int) -> str | None:
    options = operation.options
    match operation.kind:
        case "relu":
            return "F.relu(x)"
        case "tanh" | "sigmoid":
            return f"torch.{operation.kind}(x)"
        case "max_pool" | "avg_pool":
            ceil = ", ceil_mode=True" if options["ceil"] else ""
            return f"F.{operation.kind}2d(x, {options['kernel']}, {options['stride']}, {options['pad']}{ceil})"
        case "response_norm":
            groups = 1 if operation.reads == "all" else towers
            return f"response_norm(x, {groups}, {options['size']}, {options['alpha']}, {options['beta']}, {options['k']})"
        case "spatial_norm":
            return f"spatial_norm(x, {options['size']}, {options['alpha']}, {options['beta']}, {options['k']})"
        case "dropout":
            return f"x * {1 - options['p']}  # dropout: outputs are scaled in testing (paper, section 4.2)"
        case "identity":
            return None
    raise AssertionError(operation.kind)
