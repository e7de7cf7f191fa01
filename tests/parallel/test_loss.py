"""The loss over split classes counts wrong guesses as one process would over all classes."""

import pytest
import torch
import torch.distributed as dist

from alexnet_dist.parallel.loss import split_cross_entropy
from alexnet_dist.parallel.mesh import join_mesh
from tests.distributed.processes import run_processes

CLASSES = 6


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, CLASSES, generator=generator)
    labels = torch.randint(CLASSES, (40,), generator=generator)
    logits[:6] = 1.5  # all equal: the first class is the guess
    labels[:6] = torch.arange(6)
    logits[6] = torch.tensor([0.0, 2.0, 0.0, 0.0, 2.0, 0.0])  # equal on both towers
    logits[7] = logits[6]
    labels[6], labels[7] = 1, 4
    return logits, labels


def _count() -> tuple[float, int, int]:
    """The loss, the wrong guesses, and those of a batch whose logits are no numbers."""
    with join_mesh(2, torch.device("cpu"), timeout=60) as mesh:
        logits, labels = _batch()
        held = 2 // mesh.layout.shares
        parts = list(logits.chunk(2, dim=1))[mesh.share * held : (mesh.share + 1) * held]
        loss, wrong = split_cross_entropy(parts, labels, mesh.tower_group)
        assert wrong.dtype == torch.int64
        _, without_number = split_cross_entropy([part * torch.nan for part in parts], labels, mesh.tower_group)
        dist.barrier()
        return loss.item(), int(wrong), int(without_number)


@pytest.mark.parametrize("processes", [1, 2])
def test_wrong_guesses_are_counted_over_all_classes(processes: int) -> None:
    logits, labels = _batch()
    # argmax leaves it open which of equal classes it takes.
    guesses = torch.tensor([row.tolist().index(max(row.tolist())) for row in logits])
    expected = int((guesses != labels).sum())
    assert guesses[:8].tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    for loss, wrong, without_number in run_processes(_count, processes):
        assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
        assert wrong == expected
        assert without_number == len(labels)
