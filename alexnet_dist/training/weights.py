"""A short hash of a net's weights, by which two people compare runs by eye."""

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist

from alexnet_dist.parallel.mesh import Mesh


def weights_hash(parameters: Iterable[torch.Tensor], mesh: Mesh, group: dist.ProcessGroup) -> str | None:
    """The first 12 hexadecimal digits of a SHA-256 over the whole net's parameters in the order of the table, as little-endian
    fp32; on rank 0, and None on others. Each process holds its rows of them.

    The first replica's processes send theirs to rank 0 over `group`, which is gloo's; all of them take part.
    """
    if mesh.replica:
        return None
    digest = hashlib.sha256()
    for parameter in parameters:
        rows = parameter.detach().cpu().contiguous()
        if mesh.rank == 0:
            parts = [torch.empty_like(rows) for _ in range(1, mesh.layout.shares)]
            for share, part in enumerate(parts, 1):
                dist.recv(part, src=share, group=group)
            digest.update(np.ascontiguousarray(torch.cat([rows, *parts]).numpy(), dtype="<f4").data)
        else:
            dist.send(rows, dst=0, group=group)
    return None if mesh.rank else digest.hexdigest()[:12]
