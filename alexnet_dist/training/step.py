"""One step's arithmetic: what a process computes between a batch and its gradients."""

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import nn

from alexnet_dist.data.batch import NOT_KNOWN, Batch
from alexnet_dist.data.views import Preprocess
from alexnet_dist.errors import UserError
from alexnet_dist.kernels import tail
from alexnet_dist.kernels.dropout import DropoutKey
from alexnet_dist.kernels.native import CompilerError
from alexnet_dist.launching.toolchain import find_toolchain
from alexnet_dist.model.copies import Copy
from alexnet_dist.model.net import Net
from alexnet_dist.parallel.loss import split_cross_entropy
from alexnet_dist.parallel.mesh import Layout, Mesh
from alexnet_dist.parallel.ordered_sum import tree_sum
from alexnet_dist.parallel.process import Autocast
from alexnet_dist.settings import Phase, TrainerSettings
from alexnet_dist.training.captured import Captured
from alexnet_dist.training.gradients import Gradients
from alexnet_dist.training.rates import EVERY_EPOCH
from alexnet_dist.training.update import MomentumSGD

# The values of parallel.wire.
WIRES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16}


def load_kernels(wanted: str, device: torch.device, warn: Callable[[str], None]) -> bool:
    """Make the device's fused operations ready, as `trainer.native` wants; whether they are to be used.

    Raises:
        UserError: `on`, and they cannot be had here.
    """
    if wanted == "off":
        return False
    try:
        if device.type == "cpu":
            tail.load(find_toolchain(), warn)
        else:
            from alexnet_dist.kernels.cuda import make_ready

            make_ready()
        return True
    except CompilerError as error:
        if wanted == "on":
            raise UserError(f"trainer.native=on, but {error}: install one, or set trainer.native=auto") from None
        warn(f"warning: {error}: norms and poolings are torch's, which take longer (as with trainer.native=off)")
        return False


def narrow_copies(net: Net, precision: str, native: bool, added: bool) -> dict[torch.Tensor, Copy]:
    """Where products in bf16 are not a CPU's, with fused operations: the net's copies of its weights, which the update writes.

    The weights' gradients stay bf16 then too, unless those of slices or replicas are `added`.
    """
    if not native or precision != "bf16" or next(net.parameters()).device.type == "cpu":
        return {}
    return net.keep_copies(torch.bfloat16, narrow_gradients=not added)


class Step:
    """A step of a run: from a replica's batch to the update, slice by slice; every rank takes part.

    `slices` are those of the whole step (trainer.slices). Where the replicas do not divide them each computes the next whole
    number of slices, and at least one. An update whose loss is NaN or infinite is left out, with `on_nan` "stop" all that
    follow too: the host hears of it later (training/later.py). On a GPU the step is replayed as a CUDA graph, with `graph` and
    fused operations; `release` it before the process leaves the mesh.
    """

    def __init__(
        self,
        net: Net,
        preprocess: Preprocess,
        optimizer: MomentumSGD,
        mesh: Mesh,
        settings: TrainerSettings,
        seed: int,
        autocast: Autocast,
        warn: Callable[[str], None],
    ) -> None:
        """Raises UserError where a replica's images cannot be cut into its slices."""
        self._net, self._preprocess, self._optimizer = net, preprocess, optimizer
        self._mesh, self._seed, self._autocast = mesh, seed, autocast
        replicas = mesh.layout.replicas
        self.slices = -(-settings.slices // replicas)
        if settings.batch_size % (replicas * self.slices):
            raise UserError(
                f"trainer.batch_size={settings.batch_size} cannot be cut into {self.slices} slices for each of {replicas} "
                f"replicas: take a multiple of {replicas * self.slices}, or fewer slices"
            )
        self._first_row = mesh.replica * (settings.batch_size // replicas)
        self._parts = replicas * self.slices
        self._gradients = Gradients(net.layers(), self.slices, mesh.over_replicas)
        self._weight = torch.full((), 1 / self._parts, device=mesh.device)
        self._good = torch.ones((), dtype=torch.bool, device=mesh.device)
        self._stays_bad = settings.on_nan == "stop"
        # Only the fused update reads nothing on the host.
        graph = settings.graph == "auto" and net.native
        self._captured = Captured(self._whole, mesh.device, graph, mesh.crossing.forget_captured, warn)
        self.release = self._captured.release

    def take(
        self, batch: Batch, step: int, colour: bool, phase: Phase = EVERY_EPOCH, eagerly: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Take the `step`-th step over a replica's batch, whose images get their colour noise with `colour`.

        Returns scalars on the device, which hold until the next step: the mean cross-entropy, the same on every rank; how many
        of this replica's images are guessed wrong; whether the update was done, the same on every rank. `eagerly`: operation by
        operation, for those who watch. `phase`: what the optimizer's rates were set for.
        """
        loss, wrong, good = self._captured(batch.pixels, batch.packed, step, kind=(colour, phase), eagerly=eagerly)
        if self._captured.replayed:
            self._mesh.crossing.replayed()
        return loss, wrong, good

    def inputs(
        self, batch: Batch, step: int | torch.Tensor, colour: bool
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, DropoutKey]]:
        """Of each slice the images that the net reads, float [n, 3, H, W], their labels, and the key of their dropout masks."""
        first_row = self._first_row
        for part in batch.slices(self.slices):
            images = self._preprocess.of_training(part, colour, self._net.native, self._net.image_dtype)
            yield images, part.labels, DropoutKey(self._seed, step, first_row)
            first_row += len(part.labels)

    def _whole(
        self, pixels: torch.Tensor, packed: torch.Tensor, step: torch.Tensor, kind: tuple[bool, Phase]
    ) -> tuple[torch.Tensor, ...]:
        """The step of what `take` has: nothing of it is read on the host."""
        losses, wrong = [], []
        self._gradients.begin()
        for images, labels, key in self.inputs(Batch.of(0, 0, NOT_KNOWN, pixels, packed), step, kind[0]):
            loss, wrong_here = loss_of(self._net, images, labels, key, self._mesh, self._autocast, self._net.native)
            losses.append(loss.detach())
            wrong.append(wrong_here)
            if len(losses) == self.slices:
                mean = self._mean(losses)
                finite = mean < torch.inf  # false of what is no number; it is not negative
                self._good.logical_and_(finite) if self._stays_bad else self._good.copy_(finite)
            loss.backward(self._weight.to(loss.dtype))
            self._gradients.next_slice()
        self._gradients.finish()
        self._optimizer.step(self._good)
        self._net.zero_grad()
        return mean, wrong[0] if self.slices == 1 else torch.stack(wrong).sum(), self._good

    def _mean(self, losses: list[torch.Tensor]) -> torch.Tensor:
        """Of the losses of all replicas' slices, added in the order of the tree."""
        if self._parts == 1:
            return losses[0]
        own = torch.stack(losses)
        replicas = self._mesh.layout.replicas
        everyone = [torch.empty_like(own) for _ in range(replicas)] if replicas > 1 else [own]
        if replicas > 1:
            dist.all_gather(everyone, own, group=self._mesh.replica_group)
        return tree_sum(list(torch.cat(everyone))) / self._parts


def same_bits(slices: int, towers: int, layout: Layout, threads: int) -> str:
    """For which other numbers of processes a run on CPUs would end with the same bits, in a sentence.

    What more than two towers give each other is added process by process, so that its order depends on how many hold them.
    """
    replicas, held = layout.replicas, "whichever processes hold a replica"
    if towers > 2:
        held = f"where {layout.shares} {'processes hold' if layout.shares > 1 else 'process holds'} a replica"
    layouts = [1 << power for power in range(slices.bit_length())]
    if replicas not in layouts or slices == 1:
        return f"the same bits {held}; with another number of replicas than {replicas} they part by rounding"
    return f"the same bits with {', '.join(map(str, layouts))} replicas and parallel.threads={threads}, {held}"


def loss_of(
    net: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    key: DropoutKey,
    mesh: Mesh,
    autocast: Autocast,
    native: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy over these images and how many of them are guessed wrong, the same scalars on every tower.

    `images` float [N, 3, H, W], `labels` int64 [N]; `key` says where the images stand in the step's batch. `native`: by the fused
    operations of a GPU.
    """
    with autocast():
        logits = net(images, key)
    return split_cross_entropy(logits, labels, mesh.tower_group, native)
