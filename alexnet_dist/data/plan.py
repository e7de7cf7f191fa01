"""The sample plan: what a sample looks like is a pure function of (seed, epoch, sample)."""

from dataclasses import dataclass

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Draws:
    """The chances of some samples: crop offsets `y`, `x` int64 [b]; `mirror` bool [b]; `colour` float32 [b, 3] ~ N(0, 0.1)."""

    y: np.ndarray
    x: np.ndarray
    mirror: np.ndarray
    colour: np.ndarray


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of an epoch's samples: a permutation int64 [count]."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)


def draw(seed: int, epoch: int, samples: np.ndarray, offsets: int, mirror: bool) -> Draws:
    """The draws of samples int64 [b]: offsets 0..offsets - 1 with equal chance (paper, section 4.1), colour as there.

    Each number is a hash of (seed, epoch, sample, which), so it depends on no other sample.
    """
    words = [_uniform(seed, epoch, samples, which) for which in range(9)]
    # Box and Muller's normals from pairs of uniforms; 1 - u keeps the logarithm finite.
    normals = [
        np.sqrt(-2 * np.log(1 - words[3 + 2 * i])) * np.cos(2 * np.pi * words[4 + 2 * i]) for i in range(3)
    ]
    return Draws(
        y=(words[0] * offsets).astype(np.int64),
        x=(words[1] * offsets).astype(np.int64),
        mirror=(words[2] < 0.5) & mirror,
        colour=(0.1 * np.stack(normals, axis=1)).astype(np.float32),
    )


def _uniform(seed: int, epoch: int, samples: np.ndarray, which: int) -> np.ndarray:
    """float64 [b] in [0, 1): the splitmix64 finalizer over the four numbers, one after the other."""
    word = np.zeros(len(samples), dtype=np.uint64)
    for part in (np.uint64(seed), np.uint64(epoch), samples.astype(np.uint64), np.uint64(which)):
        word = _mix((word ^ part) + _GOLDEN)
    return (word >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(word: np.ndarray) -> np.ndarray:
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
