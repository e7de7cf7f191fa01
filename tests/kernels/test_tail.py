"""What follows a convolution, as C++ does it, against the same operations of torch in double precision."""

from collections.abc import Mapping

import pytest
import torch

from alexnet_dist.kernels.steps import Norm, Pool, Step, by_torch, follow, join
from alexnet_dist.training.step import load_kernels
from tests.kernels.maps import CASES, DROPOUT, NORM, POOL, RELU, maps


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    assert load_kernels("on", torch.device("cpu"), print)


@pytest.mark.parametrize("channels", [1, 7, 48])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_torch_s_within_rounding(case: str, channels: int) -> None:
    (step,) = join(CASES[case])
    x = maps(channels, torch.float32).requires_grad_()
    bias = torch.linspace(-1, 1, channels).requires_grad_()
    wide, wide_bias = x.detach().double().requires_grad_(), bias.detach().double().requires_grad_()
    y, expected = follow(x, step, native=True, bias=bias), by_torch(wide + wide_bias.view(-1, 1, 1), step, None)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    y.backward(gradient)
    expected.backward(gradient.double())
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bias.grad.double(), wide_bias.grad, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_is_computed_wide_and_rounded_once(case: str) -> None:
    (step,) = join(CASES[case])
    if step.activation == "tanh":
        pytest.skip("on a CPU torch computes the tanh, in a pass of its own")
    x = (maps(6, torch.float32) / 8).bfloat16().requires_grad_()
    wide = x.detach().float().requires_grad_()
    y, expected = follow(x, step, native=True), follow(wide, step, native=True)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    y.backward(gradient)
    expected.backward(gradient.float())
    assert torch.equal(y, expected.bfloat16())
    assert torch.equal(x.grad, wide.grad.bfloat16())


def test_neither_threads_nor_the_layout_in_memory_change_a_bit() -> None:
    (step,) = join(CASES["paper"])
    threads = torch.get_num_threads()
    results = []
    for count, layout in ((1, torch.contiguous_format), (3, torch.channels_last), (8, torch.contiguous_format)):
        torch.set_num_threads(count)
        x = maps(48, torch.float32).contiguous(memory_format=layout).requires_grad_()
        y = follow(x, step, native=True)
        y.sum().backward()
        results.append((y, x.grad))
    torch.set_num_threads(threads)
    for y, gradient in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(gradient, results[0][1])


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_number_stays_none(case: str) -> None:
    (step,) = join(CASES[case])
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(1, 6, 9, 11, dtype=dtype)
        x[0, 3, 4, 5] = torch.nan
        assert follow(x, step, native=True).isnan().any()


@pytest.mark.parametrize("case", CASES)
def test_a_meta_tensor_passes_as_one_operation_each_way(case: str) -> None:
    (step,) = join(CASES[case])
    x = maps(7, torch.float32).requires_grad_()
    seen = x.detach().to("meta").requires_grad_()
    real, fake = follow(x, step, native=True), follow(seen, step, native=True)
    real.sum().backward()
    fake.sum().backward()
    for ours, theirs in ((real, fake), (x.grad, seen.grad)):
        assert (ours.shape, ours.dtype, ours.stride()) == (theirs.shape, theirs.dtype, theirs.stride())


def test_only_what_is_done_in_one_pass_is_joined() -> None:
    norm, pool = Norm(5, 0.02, 0.75, 2), Pool(3, 2, 0)
    plain: Mapping[str, float] = {}
    assert join([RELU, NORM, POOL, RELU, DROPOUT]) == [Step("relu", norm, pool, relu_last=True), Step(dropout=0.5)]
    assert join([RELU, ("identity", plain), DROPOUT]) == [Step("relu", dropout=0.5)]
    alone = ("max_pool", {"kernel": 1, "stride": 2, "pad": 0})
    assert join([RELU, alone, RELU]) == [Step("relu", max_pool=Pool(1, 2, 0)), Step("relu")]
    assert join([NORM, RELU]) == [Step(norm=norm), Step("relu")]
    assert join([POOL, ("tanh", plain)]) == [Step(max_pool=pool), Step("tanh")]
    assert join([RELU, RELU]) == [Step("relu"), Step("relu")]
    assert join([POOL, RELU, RELU]) == [Step(max_pool=pool, relu_last=True), Step("relu")]
    assert join([("spatial_norm", NORM[1]), ("avg_pool", POOL[1])]) == [Step(spatial_norm=norm), Step(avg_pool=pool)]
    (wide,) = join([("max_pool", {"kernel": 16, "stride": 1, "pad": 0})])
    assert not wide.in_one_pass
