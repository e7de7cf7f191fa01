"""What torch.distributed's errors mean."""

import torch.distributed as dist


def broken_connection(error: Exception) -> bool:
    """Whether an error is that of a connection to another process, which gloo reports as a plain RuntimeError."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def refusal(error: Exception) -> str | None:
    """What NCCL says, whole, where it will not do what it is asked: that is a matter of the machine or its settings, and no
    connection has broken."""
    return one_line(error) if isinstance(error, dist.DistBackendError) and "ncclInvalid" in str(error) else None


def one_line(error: Exception) -> str:
    """What it says, on one line."""
    return " ".join(str(error).split())
