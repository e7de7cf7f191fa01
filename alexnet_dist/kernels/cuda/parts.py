"""What several kernels compute."""

import triton
import triton.language as tl


@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    """relu, tanh or sigmoid of float32, or x; what is no number stays none."""
    if ACTIVATION == "relu":
        x = tl.where(x < 0, 0.0, x)
    elif ACTIVATION == "tanh":
        power = tl.exp(-2 * tl.abs(x))
        size = (1 - power) / (1 + power)
        x = tl.where(x < 0, -size, size)
    elif ACTIVATION == "sigmoid":
        x = 1 / (1 + tl.exp(-x))
    return x


@triton.jit
def slope_from_output(a, ACTIVATION: tl.constexpr):
    """The derivative of `activated` where it gives a."""
    if ACTIVATION == "relu":
        a = tl.where(a > 0, 1.0, 0.0)
    elif ACTIVATION == "tanh":
        a = 1 - a * a
    elif ACTIVATION == "sigmoid":
        a = a * (1 - a)
    else:
        a = tl.full(a.shape, 1.0, tl.float32)
    return a


@triton.jit
def window_sum(x, SIZE: tl.constexpr):
    """Of [P, C], the sum over each column and SIZE // 2 on either side."""
    C: tl.constexpr = x.shape[1]
    column = tl.broadcast_to(tl.arange(0, C)[None, :], x.shape)
    total = x
    for reach in tl.static_range(1, SIZE // 2 + 1):
        total += tl.where(column >= reach, tl.gather(x, tl.maximum(column - reach, 0), 1), 0.0)
        total += tl.where(column + reach < C, tl.gather(x, tl.minimum(column + reach, C - 1), 1), 0.0)
    return total


@triton.jit
def inverse_power(s, BETA: tl.constexpr):
    """s ^ -BETA of positive float32."""
    if BETA == 0.75:
        root = tl.sqrt_rn(s)
        s = 1 / (root * tl.sqrt_rn(root))
    else:
        s = tl.exp2(-BETA * tl.log2(s))
    return s


@triton.jit
def mix(x):
    """The hash of `kernels.dropout.mix`, of uint32."""
    x = x ^ (x >> 16)
    x = x * 0x21F0AAAD
    x = x ^ (x >> 15)
    x = x * 0xD35A2D97
    return x ^ (x >> 15)
