"""Error rates over a validation set, from one view or ten, every image counted once."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import torch
import torch.distributed as dist

from alexnet_dist.data.feed import ValidationFeed
from alexnet_dist.model.net import Net
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.tracking.display import Display


def validate(
    net: Net,
    batches: ValidationFeed,
    views_of: Callable[[torch.Tensor], Iterator[torch.Tensor]],
    mesh: Mesh,
    autocast: Callable[[], Any],
    display: Display,
    between_batches: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Loss (mean negative log-likelihood), top-1 and top-5 error (fractions) and the number of images.

    `batches` yields uint8 pixels [b, 3, size, size], int64 labels [b] and sample indices [b]; rows labelled -1 pad a batch
    and count for nothing. `views_of` cuts a batch's views, float [b, 3, crop, crop] each, whose softmax outputs are averaged
    (paper, section 4.1). Counts are summed over the replicas, so all ranks return the same figures. The
    display shows how far it is. `between_batches` may raise to end it, on all ranks alike.
    """
    sums = torch.zeros(4, dtype=torch.float64, device=mesh.device)
    views = 0
    with torch.inference_mode(), closing(iter(batches)) as passing:
        for done, (pixels, labels, _) in enumerate(passing, 1):
            between_batches()
            mesh.peers.progressed()
            probabilities = None
            views = 0
            for view in views_of(pixels):
                with autocast():
                    logits = net(view)
                outputs = mesh.gather_columns(torch.cat(logits, dim=1).float()).softmax(dim=1)
                probabilities = outputs if probabilities is None else probabilities + outputs
                views += 1
            assert probabilities is not None
            sums += count_errors(probabilities / views, labels)
            display.show("validation", done, len(batches))
        dist.all_reduce(sums, group=mesh.replica_group)
    mesh.peers.rest()
    images, loss, wrong1, wrong5 = sums.tolist()
    return {
        "loss": loss / images,
        "top1_error": wrong1 / images,
        "top5_error": wrong5 / images,
        "images": int(images),
        "views": views,
    }


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
