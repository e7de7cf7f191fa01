"""What follows a convolution, compiled, against the same operations of torch in double precision."""

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F

from alexnet_dist.kernels.tail import Kernels, Tail, join_operations
from alexnet_dist.model.layers import response_norm
from alexnet_dist.model.table import Operation

RELU = Operation("relu", "relu", {})
NORM = Operation("lrn", "response_norm", {"size": 5, "alpha": 0.02, "beta": 0.75, "k": 2})
OTHER_NORM = Operation("lrn", "response_norm", {"size": 3, "alpha": 0.05, "beta": 0.6, "k": 1})
POOL = Operation("pool", "max_pool", {"kernel": 3, "stride": 2, "pad": 0})
PADDED_POOL = Operation("pool", "max_pool", {"kernel": 4, "stride": 3, "pad": 2})
DROPOUT = Operation("dropout", "dropout", {"p": 0.5})
ACROSS = Operation("lrn", "response_norm", NORM.options, reads="all")

CASES = {
    "paper": [RELU, NORM, POOL],
    "net145": [NORM, POOL, RELU],
    "norm": [OTHER_NORM],
    "relu, norm": [RELU, NORM],
    "pool": [PADDED_POOL],
    "relu, pool": [RELU, POOL],
    "pool, relu": [PADDED_POOL, RELU],
}


def _maps(channels: int, dtype: torch.dtype) -> torch.Tensor:
    """Values that lie at least a hundredth apart, so that no rounding decides which is the largest of a window."""
    count = 3 * channels * 9 * 11
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    return ((order - count / 2 + 0.5) / 100).reshape(3, channels, 9, 11).to(dtype)


def _in_double(x: torch.Tensor, operations: Sequence[Operation]) -> torch.Tensor:
    for operation in operations:
        options = operation.options
        match operation.kind:
            case "relu":
                x = F.relu(x)
            case "max_pool":
                x = F.max_pool2d(x, *(int(options[key]) for key in ("kernel", "stride", "pad")))
            case "response_norm":
                x = response_norm(x, int(options["size"]), options["alpha"], options["beta"], options["k"])
    return x


@pytest.mark.parametrize("channels", [1, 7, 48])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_torch_s_within_rounding(case: str, channels: int) -> None:
    (tail,) = join_operations(CASES[case])
    assert isinstance(tail, Tail)
    x = _maps(channels, torch.float32).requires_grad_()
    wide = x.detach().double().requires_grad_()
    y, expected = Kernels().apply(x, tail), _in_double(wide, CASES[case])
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    y.backward(gradient)
    expected.backward(gradient.double())
    assert x.grad is not None
    assert wide.grad is not None
    assert torch.allclose(y.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.allclose(x.grad.double(), wide.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_is_computed_wide_and_rounded_once(case: str) -> None:
    (tail,) = join_operations(CASES[case])
    assert isinstance(tail, Tail)
    x = (_maps(6, torch.float32) / 8).bfloat16().requires_grad_()
    y = Kernels().apply(x, tail)
    expected = Kernels().apply(x.detach().float(), tail)
    assert torch.equal(y, expected.bfloat16())
    wide = x.detach().float().requires_grad_()
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    y.backward(gradient)
    Kernels().apply(wide, tail).backward(gradient.float())
    assert x.grad is not None
    assert wide.grad is not None
    assert torch.equal(x.grad, wide.grad.bfloat16())


def test_neither_threads_nor_the_layout_in_memory_change_a_bit() -> None:
    (tail,) = join_operations(CASES["paper"])
    assert isinstance(tail, Tail)
    threads = torch.get_num_threads()
    results = []
    for count, layout in ((1, torch.contiguous_format), (3, torch.channels_last), (8, torch.contiguous_format)):
        torch.set_num_threads(count)
        x = _maps(48, torch.float32).contiguous(memory_format=layout).requires_grad_()
        y = Kernels().apply(x, tail)
        y.sum().backward()
        results.append((y, x.grad))
    torch.set_num_threads(threads)
    for y, gradient in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_number_stays_none(case: str) -> None:
    (tail,) = join_operations(CASES[case])
    assert isinstance(tail, Tail)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(1, 6, 9, 11, dtype=dtype)
        x[0, 3, 4, 5] = torch.nan
        assert Kernels().apply(x, tail).isnan().any()


def test_only_what_is_done_in_one_pass_is_joined() -> None:
    joined = join_operations([RELU, NORM, POOL, RELU, DROPOUT])
    assert joined == [Tail(True, NORM, POOL, True), DROPOUT]
    assert join_operations([RELU, DROPOUT]) == [RELU, DROPOUT]
    assert join_operations([RELU, ACROSS, POOL]) == [RELU, ACROSS, Tail(False, None, POOL, False)]
    assert join_operations([NORM, RELU]) == [Tail(False, NORM, None, False), RELU]
