"""The Triton kernels on CPU tensors, by Triton's interpreter, against the references in double precision.

test_triton.py runs this file in a process of its own, since the interpreter has to be asked for before Triton is imported.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from triton.runtime import interpreter

from alexnet_dist.kernels import spatial, steps
from alexnet_dist.kernels import tail as kernels_tail
from alexnet_dist.kernels import units as kernels_units
from alexnet_dist.kernels.cuda import loss as cuda_loss
from alexnet_dist.kernels.cuda import preprocess as cuda_preprocess
from alexnet_dist.kernels.cuda import spatial_norm, tail, units
from alexnet_dist.kernels.cuda import update as cuda_update
from alexnet_dist.kernels.dropout import WORD, DropoutKey, keep_mask, mix, threshold
from alexnet_dist.kernels.preprocess import preprocess
from alexnet_dist.kernels.steps import Norm, Step, by_torch, join
from alexnet_dist.kernels.update import update
from alexnet_dist.model import layers, products
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import build_table
from alexnet_dist.settings import OptimizerSettings
from alexnet_dist.training.update import MomentumSGD
from tests.kernels.maps import CASES, maps

DTYPES = [torch.float32, torch.bfloat16]
MASKS = DropoutKey(seed=2**31 - 5, step=7, layer=6, first_row=64, first_unit=2048)


@pytest.fixture(autouse=True)
def _round_as_gpus_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter cuts float32 off to bfloat16, where a GPU rounds to the nearest."""
    convert = interpreter._convert_float

    def to_nearest(values, of, to, mode):  # type: ignore[no-untyped-def]
        if to.name != "bf16":
            return convert(values, of, to, mode)
        return torch.from_numpy(np.ascontiguousarray(values)).bfloat16().view(torch.uint16).numpy()

    monkeypatch.setattr(interpreter, "_convert_float", to_nearest)
    monkeypatch.setattr(tail, "_PASSES", 4)  # which these small maps fill


def _normal(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _expected(step: Step, x: Tensor, bias: Tensor, gradient: Tensor, key: DropoutKey | None = None) -> tuple[Tensor, ...]:
    """Output and gradients of x and bias, in double precision."""
    wide, wide_bias = x.double().requires_grad_(), bias.double().requires_grad_()
    y = by_torch(wide + wide_bias.view(-1, *[1] * (x.dim() - 2)), step, key)
    y.backward(gradient.double())
    return y.detach(), wide.grad, wide_bias.grad


def _assert_same(made: Tensor, expected: Tensor, rounding: float) -> None:
    """Within `rounding` in float32, and within one rounding (half of the last of 8 bits) in bfloat16."""
    assert made.dtype in DTYPES
    relative = rounding if made.dtype == torch.float32 else 2**-8
    torch.testing.assert_close(made.double(), expected, rtol=relative, atol=rounding)


def _twice(function: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    first, second = function(), function()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), "the bits repeat"
    return first


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("case", "channels"), [*((case, 7) for case in CASES), ("paper", 48), ("net145", 1)])
def test_what_follows_a_convolution(case: str, channels: int, dtype: torch.dtype) -> None:
    (step,) = join(CASES[case])
    said = (step.activation, list(step.norm or ()), list(step.max_pool or ()))
    # In bfloat16 too no two values of a window are equal: of numbers that 8 bits hold, in an order of their own.
    x = maps(channels, torch.float32, images=1 if channels == 48 else 2)
    if dtype == torch.bfloat16:
        unit = 64 if step.activation == "tanh" else 4
        x = ((x.flatten().argsort().reshape(x.shape) % 251 - 125) / unit).to(dtype)
    bias = torch.arange(channels) / 2 - 1.5
    y, index = tail.forward(x, bias, *said, step.relu_last)
    gradient = _normal(*y.shape).to(dtype)
    expected, x_gradient, bias_gradient = _expected(step, x, bias, gradient)
    ours = _twice(lambda: tail.backward(gradient, x, bias, index, *said))
    _assert_same(y, expected, 1e-6)
    _assert_same(ours[0], x_gradient, 1e-5)
    torch.testing.assert_close(ours[1].double(), bias_gradient, rtol=1e-5, atol=1e-4)
    assert all(maps.is_contiguous(memory_format=torch.channels_last) for maps in (y, ours[0]))


def test_maps_and_gradients_may_lie_otherwise_in_memory() -> None:
    (step,) = join(CASES["paper"])
    said = (step.activation, list(step.norm or ()), list(step.max_pool or ()))
    wide = maps(14, torch.float32, images=2).contiguous(memory_format=torch.channels_last)
    x = wide[:, 7:]
    bias = torch.zeros(7)
    y, index = tail.forward(x, bias, *said, False)
    plain, plain_index = tail.forward(x.contiguous(), bias, *said, False)
    assert torch.equal(y, plain)
    assert torch.equal(index, plain_index)
    gradient = _normal(*y.shape)
    results = [
        tail.backward(layout(gradient), x, bias, index, *said)
        for layout in (torch.Tensor.contiguous, lambda g: g.contiguous(memory_format=torch.channels_last))
    ]
    assert torch.equal(results[0][0], results[1][0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["", "relu", "tanh", "sigmoid"])
@pytest.mark.parametrize(("shape", "drops"), [((5, 67), True), ((2, 7, 3, 5), True), ((2, 67, 3, 5), False)])
def test_an_activation_and_dropout(shape: tuple[int, ...], drops: bool, activation: str, dtype: torch.dtype) -> None:
    x, bias = _normal(*shape).to(dtype), _normal(shape[1], seed=3)
    x = x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else torch.cat([x, x], 1)[:, : shape[1]]
    gradient = _normal(*shape, seed=4).to(dtype)
    said = [mix(MASKS.seed & WORD), MASKS.first_row, MASKS.first_unit, threshold(0.3), MASKS.layer] if drops else []
    at = torch.tensor(MASKS.step)
    step = Step(activation, dropout=0.3 if drops else None)
    y = units.forward(x, bias, activation, said, at)
    expected, x_gradient, bias_gradient = _expected(step, x, bias, gradient, MASKS)
    ours = _twice(lambda: units.backward(gradient, y, True, activation, said, at))
    _assert_same(y, expected, 1e-6)
    if dtype == torch.bfloat16 and activation in ("tanh", "sigmoid"):
        return  # the slope is that of the rounded output, as torch's is
    _assert_same(ours[0], x_gradient, 1e-5)
    torch.testing.assert_close(ours[1].double(), bias_gradient, rtol=1e-5, atol=1e-4)


def test_the_masks_are_the_reference_s_to_the_bit() -> None:
    for masks, p in ((MASKS, 0.5), (DropoutKey(0, 2**40 + 3), 0.9)):
        said = [mix(masks.seed & WORD), masks.first_row, masks.first_unit, threshold(p), masks.layer]
        kept = units.forward(torch.ones(33, 130), None, "", said, torch.tensor(masks.step))
        assert torch.equal(kept.bool(), keep_mask(masks, 33, 130, p, torch.device("cpu")))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm", [Norm(5, 0.02, 0.75, 1), Norm(3, 0.5, 0.6, 2)])
def test_the_spatial_norm(norm: Norm, dtype: torch.dtype) -> None:
    x, gradient = (3 * _normal(2, 7, 5, 9)).to(dtype), _normal(2, 7, 5, 9, seed=3).to(dtype)
    y, scale = spatial_norm.forward(x, list(norm))
    expected, x_gradient, _ = _expected(Step(spatial_norm=norm), x, torch.zeros(7), gradient)
    (ours,) = _twice(lambda: (spatial_norm.backward(gradient, x, scale, list(norm)),))
    _assert_same(y, expected, 1e-6)
    _assert_same(ours, x_gradient, 1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_the_update_of_all_parameters(momentum: float, dtype: torch.dtype) -> None:
    shapes = [(33, 130), (5,), (4, 3, 5, 5), (4097,)]
    tensors = [[_normal(*shape, seed=seed) for shape in shapes] for seed in range(3)]
    weights, velocities, gradients = tensors
    gradients = [gradient.to(dtype) for gradient in gradients]
    # Rate, momentum, decay, and whether it moves, of each.
    rules = [(0.3, momentum, 0.01, 1), (0.6, momentum, 0.0, 1), (0.0, momentum, 0.5, 1), (1e-3, 0.5, 0.1, 0)]
    numbers = torch.tensor(rules, dtype=torch.float64).t().contiguous()
    wide = [[tensor.double() for tensor in tensors] for tensors in (weights, velocities, gradients)]
    update(*wide, [torch.empty(0)] * 4, numbers, None)
    copies = [torch.empty(shape, dtype=torch.bfloat16) if len(shape) > 1 else torch.empty(0) for shape in shapes]
    for finite in (torch.tensor(0.0), torch.tensor(1.0)):
        before = [tensor.clone() for tensor in (*weights, *velocities)]
        cuda_update.update(weights, velocities, gradients, copies, numbers, finite)
        changed = [not torch.equal(*pair) for pair in zip(before, (*weights, *velocities), strict=True)]
        assert any(changed) == bool(finite)
    for made, expected in zip((*weights, *velocities), (*wide[0], *wide[1]), strict=True):
        torch.testing.assert_close(made.double(), expected, rtol=1e-6, atol=1e-6)
    for copy, weight in zip(copies, weights, strict=True):
        assert not copy.numel() or torch.equal(copy, weight.bfloat16())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("coloured", [True, False])
def test_the_preprocessing(coloured: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    crops = torch.randint(256, (3, 19, 19, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    mean, colour, vectors, deviations = 255 * torch.rand(3, 25, 25, generator=generator), _normal(3, 3), _normal(3, 3), _normal(3)
    y, x = torch.tensor([0, 6, 2]), torch.tensor([6, 0, 3])
    mirror, mean_mirror = torch.tensor([True, False, True]), torch.tensor([True, False, False])
    said = (mirror, mean, y, x, mean_mirror, colour if coloured else None, vectors, deviations, 1.1)
    images = cuda_preprocess.preprocess(crops, *said, dtype)
    expected = preprocess(crops, *said, torch.float32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(images.float(), expected, rtol=1e-6 if dtype == torch.float32 else 2**-8, atol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_loss(dtype: torch.dtype) -> None:
    whole = (4 * _normal(6, 15)).to(dtype)
    whole[2, [3, 9]] = 20.0  # two classes share the largest logit: the first is the guess
    whole[5] = torch.nan
    labels = torch.tensor([14, 0, 9, 7, int(whole[4].argmax()), 3])
    rows = slice(0, 5)
    wide = whole[rows].double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(wide, labels[rows])
    (2 * expected).backward()
    logits = [whole[:, :5], whole[:, 5:10], whole[:, 10:]]
    largest = cuda_loss.largest(logits)
    assert largest[5].isnan()
    sums = cuda_loss.sums([part[rows] for part in logits], largest[rows], labels[rows], 0)
    # Of two processes, the second holds classes 10 to 14: what each sums is added.
    parts = [cuda_loss.sums(own, largest[rows], labels[rows], first) for own, first in (
        ([part[rows] for part in logits[:2]], 0), ([logits[2][rows]], 10),
    )]  # fmt: skip
    torch.testing.assert_close(parts[0] + parts[1], sums)
    mean, wrong = cuda_loss.loss(sums)
    assert mean.item() == pytest.approx(expected.item(), rel=1e-6)
    assert wrong == (whole[rows].float().argmax(1) != labels[rows]).sum()
    made = cuda_loss.gradient([part[rows] for part in logits], largest[rows], sums, labels[rows], torch.tensor(2.0), 0)
    _assert_same(torch.cat(made, 1), wide.grad, 1e-6)
    mean, wrong = cuda_loss.loss(cuda_loss.sums(logits, largest, labels, 0))
    assert mean.isnan()
    assert wrong == (whole[rows].float().argmax(1) != labels[rows]).sum() + 1


TABLE = {
    "name": "small",
    "towers": 2,
    "input": 13,
    "operations": {
        "relu": {"kind": "relu"},
        "tanh": {"kind": "tanh"},
        "lrn": {"kind": "response_norm", "size": 3, "alpha": 1e-2, "beta": 0.75, "k": 2},
        "norm": {"kind": "spatial_norm", "size": 3, "alpha": 1e-2, "beta": 0.75, "k": 1},
        "pool": {"kind": "max_pool", "kernel": 3, "stride": 2},
        "dropout": {"kind": "dropout", "p": 0.4},
    },
    "layers": {
        name: {"kind": kind, "reads": reads, "filters": filters, "then": then, "weight_std": 0.3, "bias": 0.1, **kernel}
        for name, kind, reads, filters, kernel, then in (
            ("conv1", "conv", "image", 6, {"kernel": 3, "stride": 1}, ["relu", "lrn", "pool"]),
            ("conv2", "conv", "own", 10, {"kernel": 3, "pad": 1}, ["lrn", "norm", "relu"]),
            ("conv3", "conv", "all", 8, {"kernel": 3, "pad": 1}, ["tanh"]),
            ("conv4", "conv", "own", 8, {"kernel": 3, "pad": 0, "pad_end": 1}, ["pool", "relu"]),
            ("fc5", "fc", "all", 12, {}, ["relu", "dropout"]),
            ("fc6", "fc", "all", 8, {}, []),
        )
    },
}


def _step(native: bool, dtype: torch.dtype, narrow: bool) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Logits and gradients of a training step of the net above on a process that holds all of it, and its weights after it."""
    net = Net(build_table(TABLE), native=native)
    net.initialise(3)
    net = net.to(dtype)
    copies = net.keep_copies(torch.bfloat16, narrow_gradients=True) if native and narrow else {}
    settings = OptimizerSettings(lr=0.1, momentum=0.9, weight_decay=0.01, bias_lr_multiplier=2, bias_weight_decay=False)
    optimizer = MomentumSGD(net, settings, copies=copies, native=native)
    images = 2 * _normal(3, 3, 13, 13).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        logits = net(images, DropoutKey(1, torch.tensor(2) if native else 2))
    torch.autograd.backward(logits, [_normal(*part.shape, seed=5).to(part.dtype) for part in logits])
    gradients = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    optimizer.step()
    for weight, copy in copies.items():
        assert torch.equal(copy.read(), weight.bfloat16())
    return [part.detach() for part in logits], gradients, {name: weight.detach() for name, weight in net.named_parameters()}


@pytest.mark.parametrize("whole", [True, False], ids=["one product", "taken apart"])
@pytest.mark.parametrize("narrow", [False, True], ids=["fp32", "bf16"])
def test_a_whole_step_as_a_gpu_takes_it(monkeypatch: pytest.MonkeyPatch, narrow: bool, whole: bool) -> None:
    expected = _step(False, torch.float32 if narrow else torch.float64, narrow)
    for module in (steps, layers, products):
        monkeypatch.setattr(module, "on_gpu", lambda x: True)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: not whole)
    registered = {
        kernels_tail.follow: tail.forward,
        kernels_tail.follow_backward: tail.backward,
        kernels_units._activate: units.forward,
        kernels_units._activate_backward: units.backward,
        spatial.spatial_norm: spatial_norm.forward,
        spatial._spatial_norm_backward: spatial_norm.backward,
        update: cuda_update.update,
    }
    for operation, kernel in registered.items():
        operation.register_kernel("cpu")(kernel)
    made = _step(True, torch.float32, narrow)
    for ours, theirs in zip(made[0], expected[0], strict=True):
        assert (ours - theirs).norm() <= (0.03 if narrow else 1e-5) * theirs.norm()
    for index, tolerance in ((1, 0.25 if narrow else 1e-5), (2, 0.1 if narrow else 1e-5)):
        for name, theirs in expected[index].items():
            ours = made[index][name]
            assert index == 2 or ours.dtype == (torch.bfloat16 if narrow and name.endswith("weight") else torch.float32), name
            assert (ours - theirs).norm() <= tolerance * theirs.norm(), name
