"""What the ranks agree on at a step boundary."""

import torch

from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.training.stopping import Stopping


def test_when_a_checkpoint_is_due_by_time_one_is_begun() -> None:
    saved, due = [], False
    with join_mesh(2, torch.device("cpu"), timeout=60) as mesh, Stopping(mesh.host_group, lambda _: None) as stopping:
        for step in range(8):
            due = due or step in (2, 6)
            if stopping.check(due):  # the vote of the boundary before
                saved.append(step)
                due = False
    assert saved == [3, 7]
