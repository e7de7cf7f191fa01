"""The sample plan: which images make a batch and how each is cropped, as pure functions of seed, epoch and sample.

No state is kept, so batches do not depend on the number of processes or threads, nor on where a run was interrupted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# How many random numbers a sample has: for y, x, mirroring, and four for the colour.
_WORDS = 7

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Draws:
    """What is drawn for b samples (paper, section 4.1).

    y, x: int64 [b], offsets of the crop. mirror: bool [b]. colour: float32 [b, 3], the a1, a2, a3 ~ N(0, 0.1).
    """

    y: np.ndarray
    x: np.ndarray
    mirror: np.ndarray
    colour: np.ndarray


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order in which an epoch takes the samples: a permutation of 0..count-1, int64 [count].

    It sorts the raw output of NumPy's Philox generator, which NumPy promises to keep as it is (its shuffles it does not).
    """
    low_bits = np.uint64((1 << (count - 1).bit_length()) - 1)
    keys = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(count)
    # The sample's number takes the place of the lowest bits, so that equal keys are ordered too and a plain sort will do.
    ordered = np.sort(keys & ~low_bits | np.arange(count, dtype=np.uint64))
    return (ordered & low_bits).astype(np.int64)


def at_positions(order: np.ndarray, positions: np.ndarray, left_out: Sequence[int] = ()) -> np.ndarray:
    """The samples at positions (int64 [b]) of an epoch's order; in the place of one of `left_out` the next in the order that is
    none, after the last the first: int64 [b]."""
    samples = order[positions]
    while (out := np.isin(samples, left_out)).any():
        positions = np.where(out, (positions + 1) % len(order), positions)
        samples = order[positions]
    return samples


def draws(seed: int, epoch: int, samples: np.ndarray, positions: int, mirror: bool) -> Draws:
    """What is drawn for samples (int64 [b]) in an epoch: offsets in 0..positions-1; with `mirror` false no sample is mirrored."""

    y, x, mirrored, *for_colour = _hash(seed, epoch, samples)
    # Box-Muller: two normal numbers from two uniform ones; the fourth is not needed.
    uniform = _uniform(np.stack(for_colour))
    radius = 0.1 * np.sqrt(-2.0 * np.log(uniform[:2]))
    angle = 2.0 * np.pi * uniform[2:]
    colour = np.stack([radius[0] * np.cos(angle[0]), radius[0] * np.sin(angle[0]), radius[1] * np.cos(angle[1])], axis=1)
    return Draws(
        y=_below(y, positions),
        x=_below(x, positions),
        mirror=(mirrored >> np.uint64(63)).astype(bool) & mirror,
        colour=colour.astype(np.float32),
    )


def _hash(seed: int, epoch: int, samples: np.ndarray) -> np.ndarray:
    """64 random bits for each use and sample: uint64 [_WORDS, b]."""
    state = np.zeros(1, np.uint64)
    for part in (seed, epoch, samples, np.arange(_WORDS)[:, None]):
        state = _mix(state + _GOLDEN + np.asarray(part).astype(np.uint64))
    return state


def _mix(state: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64 bits."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _below(words: np.ndarray, bound: int) -> np.ndarray:
    """Whole numbers 0..bound-1 from the upper 32 bits, int64."""
    return ((words >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(np.int64)


def _uniform(words: np.ndarray) -> np.ndarray:
    """float64 in (0, 1], from the upper 53 bits."""
    return ((words >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53
