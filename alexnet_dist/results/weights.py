"""A short hash of a net's weights, by which two people compare runs by eye."""

import hashlib
from collections.abc import Iterable

import numpy as np
import torch

from alexnet_dist.model.net import Net
from alexnet_dist.parallel.mesh import Mesh

DIGITS = 12


def hash_of(parameters: Iterable[torch.Tensor]) -> str:
    """The first 12 hexadecimal digits of a SHA-256 over whole parameters in the order of the table, as little-endian fp32."""
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(np.ascontiguousarray(parameter.detach().cpu().numpy(), dtype="<f4"))
    return digest.hexdigest()[:DIGITS]


def weights_hash(net: Net, mesh: Mesh) -> str:
    """The hash of the whole net's parameters, of which each process holds its rows; every rank takes part and gets the same."""
    return hash_of(mesh.gather_rows(parameter.detach(), group=mesh.tower_group) for parameter in net.parameters())
