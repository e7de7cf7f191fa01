"""What the tests of the fused operations compute: sequences of operations, and maps on which no rounding decides."""

from collections.abc import Mapping

import torch

RELU: tuple[str, Mapping[str, float]] = ("relu", {})
TANH: tuple[str, Mapping[str, float]] = ("tanh", {})
NORM = ("response_norm", {"size": 5, "alpha": 0.02, "beta": 0.75, "k": 2})
OTHER_NORM = ("response_norm", {"size": 3, "alpha": 0.05, "beta": 0.6, "k": 1})
POOL = ("max_pool", {"kernel": 3, "stride": 2, "pad": 0})
PADDED_POOL = ("max_pool", {"kernel": 4, "stride": 3, "pad": 2})
CEIL_POOL = ("max_pool", {"kernel": 3, "stride": 3, "pad": 1, "ceil": True})
DROPOUT = ("dropout", {"p": 0.5})

CASES = {
    "paper": [RELU, NORM, POOL],
    "net145": [NORM, POOL, RELU],
    "norm": [OTHER_NORM],
    "relu, norm": [RELU, NORM],
    "pool": [PADDED_POOL],
    "relu, pool": [RELU, POOL],
    "ceil pool": [CEIL_POOL],
    "pool, relu": [PADDED_POOL, RELU],
    "tanh, norm, pool": [TANH, NORM, POOL],
}


def maps(channels: int, dtype: torch.dtype, images: int = 3) -> torch.Tensor:
    """[images, channels, 10, 12] of values that lie at least a hundredth apart, so that no rounding decides which is the largest
    of a window."""
    count = images * channels * 10 * 12
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    return ((order - count / 2 + 0.5) / 100).reshape(images, channels, 10, 12).to(dtype)
