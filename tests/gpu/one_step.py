"""One step of the tiny net on the first GPU by the fused operations, for tools that watch a program."""

import torch

from alexnet_dist.launching.commands import compose
from alexnet_dist.model.table import build_table
from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.planning.probe import training_step

if __name__ == "__main__":
    table = build_table(compose("train", ["model=tiny"])["model"])
    with join_mesh(table.towers, torch.device("cuda", 0), timeout=120) as mesh:
        training_step(table, 16, "bf16", mesh, native=True)()
        torch.cuda.synchronize()
