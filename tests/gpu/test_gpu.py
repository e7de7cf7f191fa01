"""What needs CUDA: crossings over NCCL, DALI's GPU decoder, devices of their own, bf16. Skipped without a device."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_dist.data.feed import TrainFeed
from alexnet_dist.data.images import open_folder
from alexnet_dist.kernels.dropout import DropoutKey
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import build_table
from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.parallel.process import pick_device, repeat_bits, set_precision
from alexnet_dist.training.step import loss_of
from tests.distributed.processes import ONE_GPU, run_processes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


def _device() -> torch.device:
    """A GPU for each process; on a machine with one GPU, that one for all."""
    rank = int(os.environ["RANK"])
    if torch.cuda.device_count() == 1:
        os.environ.update(ONE_GPU, NCCL_HOSTID=f"tower-{rank}")
        return torch.device("cuda", 0)
    return pick_device("cuda", rank)


def _step(precision: str) -> tuple[float, dict[str, torch.Tensor]]:
    table = build_table(compose("train", ["model=tiny"])["model"])
    device = _device()
    repeat_bits()  # so that one process, too, takes the layers that read all towers apart
    autocast = set_precision(precision, device)
    with join_mesh(table.towers, device, timeout=120) as mesh:
        net = Net(table, mesh.crossing).to(device)
        net.initialise(1)
        generator = torch.Generator().manual_seed(2)
        images = (60 * torch.randn(8, 3, 56, 56, generator=generator)).to(device)
        labels = torch.randint(8, (8,), generator=generator).to(device)
        loss, _ = loss_of(net, images, labels, DropoutKey(1, 2), mesh, autocast)
        loss.backward()
        return loss.item(), {name: parameter.grad.cpu() for name, parameter in net.named_parameters()}


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 1e-3)])
def test_two_towers_over_nccl_agree_with_one_process_of_the_same_precision(precision: str, tolerance: float) -> None:
    ((whole_loss, whole),) = run_processes(_step, 1, precision)
    results = run_processes(_step, 2, precision)
    for loss, _ in results:
        assert loss == pytest.approx(whole_loss, rel=tolerance)
    for name, expected in whole.items():
        joined = torch.cat([gradients[name] for _, gradients in results])
        assert (joined - expected).norm() <= tolerance * expected.norm(), name


def test_the_gpu_decoder_gives_the_cpu_s_crops_within_a_grey_level_or_two(drawn_images: Path) -> None:
    images, _ = open_folder(drawn_images)
    batches = []
    for device in (torch.device("cpu"), torch.device("cuda", 0)):
        feed = TrainFeed(
            images, seed=1, batch_size=32, replica=0, replicas=1, part=0, parts=1, size=64, crop=56, mirror=True,
            threads=2, device=device, exchange=None,
        )  # fmt: skip
        batches.append(next(feed))
        feed.close()
    on_cpu, on_gpu = batches
    assert on_gpu.pixels.is_cuda
    assert np.array_equal(on_cpu.samples, on_gpu.samples)
    difference = (on_cpu.pixels.int() - on_gpu.pixels.cpu().int()).abs().float()
    assert difference.mean() < 2


def test_more_processes_than_gpus_are_refused() -> None:
    with pytest.raises(Exception, match="has no GPU of its own"):
        pick_device("cuda", torch.cuda.device_count())
