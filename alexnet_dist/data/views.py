"""From uint8 pixels to what the net reads: mean image, colour noise, and the views of an evaluation."""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from alexnet_dist.data.feed import Batch
from alexnet_dist.data.statistics import Statistics


class Preprocess(nn.Module):
    """Subtracts the mean image and adds colour noise, on the 0..255 scale, in float on the device (paper, sections 2, 4.1).

    `size` is the side of the whole images, `crop` what the net reads. The statistics are buffers, so that a checkpoint
    keeps them: `mean` float32 [3, size, size], `directions` [3, 3], whose columns are the eigenvectors of the covariance of RGB
    values, each times the square root of its eigenvalue.
    """

    def __init__(self, size: int, crop: int, colour: bool) -> None:
        super().__init__()
        self.size, self.crop, self.colour = size, crop, colour
        self.register_buffer("mean", torch.zeros(3, size, size))
        self.register_buffer("directions", torch.zeros(3, 3))
        self.mean: torch.Tensor
        self.directions: torch.Tensor

    def set_statistics(self, statistics: Statistics) -> None:
        self.mean.copy_(torch.from_numpy(statistics.mean_image))
        self.directions.copy_(torch.from_numpy(statistics.eigenvectors * statistics.deviations))

    def of_training(self, batch: Batch) -> torch.Tensor:
        """A batch's crops, less the mean image's same crops, plus each image's colour:
        float32 [b, 3, crop, crop], channels last."""
        # Every place that a crop of the mean image can have, as views of it: [3, offsets, offsets, crop, crop].
        places = self.mean.unfold(1, self.crop, 1).unfold(2, self.crop, 1)
        means = places[:, batch.y, batch.x].transpose(0, 1)
        means = torch.where(batch.mirror[:, None, None, None], means.flip(3), means)
        images = (batch.pixels - means).contiguous(memory_format=torch.channels_last)
        if self.colour:
            images += (batch.colour @ self.directions.T)[:, :, None, None]
        return images

    def views(self, count: int) -> Callable[[torch.Tensor], Iterator[torch.Tensor]]:
        """How to cut uint8 [b, 3, size, size] into one view (the centre) or ten (corners, centre, and their mirrors)."""
        end, middle = self.size - self.crop, (self.size - self.crop) // 2
        places = [(middle, middle)]
        if count == 10:
            places += [(0, 0), (0, end), (end, 0), (end, end)]

        def cut(pixels: torch.Tensor) -> Iterator[torch.Tensor]:
            whole = (pixels - self.mean).contiguous(memory_format=torch.channels_last)
            for y, x in places:
                view = whole[:, :, y : y + self.crop, x : x + self.crop]
                yield view
                if count == 10:
                    yield view.flip(3)

        return cut
