"""One step of the tiny net on the first GPU by the fused operations, for tools that watch a program."""

import torch

from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import build_table
from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.planning.work import random_batch, training_step

if __name__ == "__main__":
    table = build_table(compose("train", ["model=tiny"])["model"])
    with join_mesh(table.towers, torch.device("cuda", 0), timeout=120) as mesh:
        net = Net(table, native=True).to(mesh.device)
        training_step(net, *random_batch(table, 16, mesh.device), mesh.tower_group, "bf16")()
        torch.cuda.synchronize()
