"""A short hash of a net's weights, by which two people compare runs by eye."""

import hashlib
from collections.abc import Iterable

import numpy as np
import torch
import torch.distributed as dist

from alexnet_dist.parallel.mesh import Mesh

DIGITS = 12


def hash_of(parameters: Iterable[torch.Tensor]) -> str:
    """The first 12 hexadecimal digits of a SHA-256 over whole parameters in the order of the table, as little-endian fp32."""
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(np.ascontiguousarray(parameter.detach().cpu().numpy(), dtype="<f4").data)
    return digest.hexdigest()[:DIGITS]


def weights_hash(parameters: Iterable[torch.Tensor], mesh: Mesh, group: dist.ProcessGroup) -> str | None:
    """The hash of a whole net, of which each process holds its rows of the parameters; on rank 0, and None on others.

    The first replica's processes send theirs to rank 0 over `group`, which is gloo's; all of them take part.
    """

    def whole(rows: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(rows) for _ in range(1, mesh.layout.shares)]
        for share, part in enumerate(parts, 1):
            dist.recv(part, src=share, group=group)
        return torch.cat([rows, *parts])

    own = (parameter.detach().cpu().contiguous() for parameter in parameters)
    if mesh.rank == 0:
        return hash_of(map(whole, own))
    if mesh.replica == 0:
        for rows in own:
            dist.send(rows, dst=0, group=group)
    return None
