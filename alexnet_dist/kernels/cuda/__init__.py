"""The fused operations in Triton. Imported where a GPU's kernels are called for, and nowhere else: Triton is not everywhere."""

from alexnet_dist.kernels.native import CompilerError


def make_ready() -> None:
    """Let Triton make what it launches kernels with, for which it needs a C compiler and Python's headers.

    Raises:
        CompilerError: there is no Triton, or it cannot.
    """
    try:
        from triton.runtime import driver

        assert driver.active
    except ImportError:
        raise CompilerError("there is no Triton") from None
    except Exception as error:  # the compiler's, the linker's, its own
        raise CompilerError(f"Triton cannot be used ({' '.join(str(error).split())})") from None
