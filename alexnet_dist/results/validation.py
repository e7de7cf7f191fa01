"""Error rates over a validation set, of one net or several averaged, from one view or ten, every image counted once."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from alexnet_dist.data.bad_image import BadImageError
from alexnet_dist.data.feed import ValidationFeed
from alexnet_dist.model.net import Net
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.parallel.process import Autocast
from alexnet_dist.tracking.display import Display
from alexnet_dist.tracking.record import Record
from alexnet_dist.training.bad_images import raise_together
from alexnet_dist.training.sizes import layer_sizes
from alexnet_dist.training.state import TrainingState
from alexnet_dist.training.weights import weights_hash

# Told of each batch: sample indices int64 [b], -1 where a row pads the batch, and probabilities float32 [b, classes].
Keep = Callable[[torch.Tensor, torch.Tensor], None]


@dataclass(frozen=True)
class Voter:
    """A net, or this process's share of it, and how it looks at an image.

    `views_of` cuts a batch's views from uint8 pixels [b, 3, size, size], float [b, 3, crop, crop] each, whose softmax outputs
    are averaged (paper, section 4.1).
    """

    net: Net
    views_of: Callable[[torch.Tensor], Iterator[torch.Tensor]]
    autocast: Autocast

    def probabilities(self, pixels: torch.Tensor, mesh: Mesh | None = None) -> tuple[torch.Tensor, int]:
        """Of uint8 pixels [b, 3, size, size]: float32 [b, classes], the same on every tower, and the number of views.

        Without a mesh this process holds the whole net.
        """
        total = None
        views = 0
        for view in self.views_of(pixels):
            if mesh is not None:
                mesh.peers.progressed()
            with self.autocast():
                logits = self.net(view)
            own = torch.cat(logits, dim=1).float()
            outputs = (own if mesh is None else mesh.gather_columns(own)).softmax(dim=1)
            total = outputs if total is None else total + outputs
            views += 1
        assert total is not None
        return total / views, views


@dataclass(frozen=True)
class Validation:
    """The validations of a run: of the centre view after every `every` epochs, and one that closes it.

    `pause` is entered meanwhile; `between_batches` may raise to end it, on all ranks alike.
    """

    state: TrainingState
    every: int
    batches: ValidationFeed
    mesh: Mesh
    autocast: Autocast
    display: Display
    record: Record
    pause: Callable[[], AbstractContextManager[None]]
    between_batches: Callable[[], object]

    def at_boundary(self) -> bool:
        """Validate where an epoch that wants it has just ended; whether it was so."""
        if not self.state.validation_due(self.every):
            return False
        figures = self.validate(views=1)
        self.state.note_validation(figures["top1_error"])
        return True

    def validate(self, views: int) -> dict[str, Any]:
        """Measure the net as it is, and record the figures."""
        state = self.state
        with self.pause():
            voter = Voter(state.net, state.preprocess.views(views), self.autocast)
            figures = measure([voter], self.batches, self.mesh, self.display, self.between_batches)
            figures["layers"] = layer_sizes(state.net, state.optimizer, self.mesh)
        if not math.isfinite(figures["loss"]):
            self.display.say("warning: the validation loss is NaN or infinite: the net has diverged, take a lower optimizer.lr")
        figures = {"kind": "val", "step": state.step, "epoch": state.epochs_done, **figures}
        self.record.validation(figures)
        return figures


def measure(
    voters: Sequence[Voter],
    batches: ValidationFeed,
    mesh: Mesh,
    display: Display,
    between_batches: Callable[[], object] = lambda: None,
    keep: Keep | None = None,
    weights: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Loss (mean negative log-likelihood), top-1 and top-5 error (fractions), the number of images and of views.

    Several voters' probabilities are averaged (paper, section 6: "averaging the predictions of five similar CNNs"), and `each`
    holds the three figures of every one alone. With `weights`, one a voter and 1 together, `equal` holds those of the average
    without them. `weights` among the figures is the short hash of the net, of several a list. `batches` yields
    uint8 pixels [b, 3, size, size], int64 labels [b] and sample indices [b]; rows labelled -1 pad a batch and count for
    nothing. Counts are summed over the replicas, so all ranks return the same figures. The display shows how far it is.
    `between_batches` may raise to end it, on all ranks alike; BadImageError is raised so.
    """
    alone = len(voters) == 1
    rows = 1 if alone else 1 + len(voters) + (weights is not None)
    sums = torch.zeros(rows, 4, dtype=torch.float64, device=mesh.device)
    views = 0
    bad = None
    with torch.inference_mode(), closing(iter(batches)) as passing:
        try:
            for done, (pixels, labels, samples) in enumerate(passing, 1):
                between_batches()
                votes = []
                for voter in voters:
                    vote, views = voter.probabilities(pixels, mesh)
                    votes.append(vote)
                mean = said = votes[0] if alone else torch.stack(votes).mean(dim=0)
                if weights is not None:
                    said = torch.stack([weight * vote for weight, vote in zip(weights, votes, strict=True)]).sum(dim=0)
                counted = [said] if alone else [said, *votes] if weights is None else [said, *votes, mean]
                sums += torch.stack([count_errors(vote, labels) for vote in counted])
                if keep is not None:
                    keep(samples, said)
                display.show("validation", done, len(batches))
        except BadImageError as error:
            bad = error.bad
        raise_together(bad, mesh)
        dist.all_reduce(sums, group=mesh.replica_group)
    mesh.peers.rest()
    together, *others = (_figures(row) for row in sums.tolist())
    hashes = [weights_hash(voter.net.parameters(), mesh, mesh.host_group) for voter in voters]
    together["weights"] = hashes[0] if alone else hashes
    figures = {**together, "images": int(sums[0, 0]), "views": views}
    if not alone:
        figures["each"] = others[: len(voters)]
    if weights is not None:
        figures["equal"] = others[-1]
    return figures


def _figures(counted: list[float]) -> dict[str, Any]:
    images, loss, wrong1, wrong5 = counted
    return {"loss": loss / images, "top1_error": wrong1 / images, "top5_error": wrong5 / images}


def count_errors(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of [b, classes] and [b]: images, summed negative log-likelihood, images wrong in the first one and the first five."""
    counted = labels >= 0
    probabilities, labels = probabilities[counted].double(), labels[counted]
    right = probabilities.gather(1, labels[:, None])
    # Of classes that share a probability the first counts as better; a NaN counts against the label.
    earlier = torch.arange(probabilities.shape[1], device=labels.device) < labels[:, None]
    above = ~(probabilities < right) & ~((probabilities == right) & ~earlier)
    above.scatter_(1, labels[:, None], False)
    place = above.sum(dim=1)
    loss = -right.clamp_min(torch.finfo(torch.float32).tiny).log().sum()
    return torch.stack([counted.sum().double(), loss, (place >= 1).sum().double(), (place >= 5).sum().double()])
