"""The stage that captures the trainer's step."""

import os
import time
from typing import Any

import torch

from alexnet_dist.bench import slices
from alexnet_dist.data.views import Preprocess
from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.parallel.process import set_precision
from alexnet_dist.settings import TrainerSettings
from alexnet_dist.training.step import Step, load_kernels
from tests.distributed.processes import ONE_GPU, run_processes
from tests.gpu.without_images import device_of, table_of


def _captured(dry: bool) -> dict[str, Any]:
    """The trainer's whole step in bf16 of the rank's share of the net: captured as a graph, and operation by operation."""
    if not dry:
        os.environ |= ONE_GPU | {"NCCL_HOSTID": f"tower-{os.environ.get('RANK', '0')}"}
    device, table, steps = device_of(dry), table_of(dry), 3 if dry else 50
    ends, told, warnings = [], {}, []
    with join_mesh(table.towers, device, timeout=40) as mesh:
        native = load_kernels("off" if dry else "auto", device, warnings.append)
        preprocess = Preprocess(table.input_size + 32, table.input_size, "aligned").to(device)
        batch = slices.random_batch(table, 8 if dry else 128, device)
        for graph in ("auto", "off"):
            net, optimizer = slices.new_net(table, mesh, native)
            wanted = TrainerSettings(1, None, len(batch.labels), 1, 1, "stop", "auto", graph, False, None)
            step = Step(net, preprocess, optimizer, mesh, wanted, 0, set_precision("bf16", device), warnings.append)
            begun = time.perf_counter()
            for number in range(steps):
                loss, _, good = step.take(batch, number, colour=True)
                mesh.peers.progressed()
            told[f"graph {graph}"] = {"loss": loss.item(), "good": bool(good), "seconds": time.perf_counter() - begun}
            told[f"graph {graph}"]["replayed"] = step._captured.replayed
            ends.append(torch.cat([parameter.detach().float().cpu().flatten() for parameter in net.parameters()]))
            step.release()
    difference = (ends[0] - ends[1]).abs().max().item()
    return {**told, "processes": mesh.layout.processes, "warnings": warnings, "parameters_differ_by": difference}


def graph(note: Any, dry: bool) -> None:
    """The trainer's step as a CUDA graph beside the same launched operation by operation, in one process and in two on one GPU
    over NCCL: is it replayed, and are the parameters the same behind 50 steps? Dry: three on the CPU, where none is."""
    note(**_captured(dry))
    for told in run_processes(_captured, 2, dry):
        note(**told)
