"""From uint8 crops to what the net reads: mirrored, the mean image subtracted, colour noise added; views for evaluation."""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from alexnet_dist.data.batch import Batch
from alexnet_dist.data.statistics import Statistics
from alexnet_dist.errors import UserError
from alexnet_dist.kernels.preprocess import preprocess, preprocess_by_torch


class Preprocess(nn.Module):
    """The paper's preprocessing (section 4.1) of size x size squares and crop x crop crops, on whatever device it is on.

    Every crop has the mean image subtracted: with `mean` "aligned" the part that it was cropped from, mirrored as it is; with
    "centre" the centre crop of it, unmirrored, whatever the crop, as in the authors' program (convdata_jpeg.py, data_mean_crop).

    Values stay on the 0..255 scale; images are channels last in memory, as they come from the decoder. Buffers, zero until
    `set_statistics` or a checkpoint fills them: mean_image float32 [3, size, size]; eigenvectors float32 [3, 3], in columns;
    deviations float32 [3].
    """

    mean_image: torch.Tensor
    eigenvectors: torch.Tensor
    deviations: torch.Tensor

    def __init__(self, size: int, crop: int, mean: str, colour_divisor: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.crop = crop
        self.mean = mean
        self.colour_divisor = colour_divisor
        self.register_buffer("mean_image", torch.zeros(3, size, size))
        self.register_buffer("eigenvectors", torch.zeros(3, 3))
        self.register_buffer("deviations", torch.zeros(3))

    def set_statistics(self, statistics: Statistics) -> None:
        """Take a data set's statistics. Raises UserError where its mean image is of another size."""
        if statistics.mean_image.shape != self.mean_image.shape:
            side = statistics.mean_image.shape[-1]
            raise UserError(f"the data's mean image has {side} pixels a side and data.size is {self.size}: set data.size={side}")
        self.mean_image.copy_(torch.from_numpy(statistics.mean_image))
        self.eigenvectors.copy_(torch.from_numpy(statistics.eigenvectors))
        self.deviations.copy_(torch.from_numpy(statistics.deviations))

    def of_training(self, batch: Batch, colour: bool, native: bool = False, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """[b, 3, crop, crop] of `dtype`: mirrored where drawn, less the mean image, and with `colour` plus each image's
        noise, over colour_divisor.

        The noise is the same for all pixels of an image: [p1 p2 p3][a1 l1, a2 l2, a3 l3]^T, with p the eigenvectors, l the
        deviations (the authors' program has deviations where the paper says eigenvalues) and a the batch's `colour`. The program
        divides by 1 + 0.1, the noise's own deviation, so that the scale stays about that of the test images (convdata_jpeg.py).
        `native`: on a GPU by one kernel.
        """
        y, x, mean_mirror = batch.y, batch.x, batch.mirror
        if self.mean == "centre":
            y = x = torch.full_like(batch.y, self._middle[0])
            mean_mirror = torch.zeros_like(batch.mirror)
        return (preprocess if native or batch.pixels.is_cpu else preprocess_by_torch)(
            batch.pixels, batch.mirror, self.mean_image, y, x, mean_mirror, batch.colour if colour else None, self.eigenvectors,
            self.deviations, self.colour_divisor, dtype,
        )  # fmt: skip

    def views(self, count: int) -> Callable[[torch.Tensor], Iterator[torch.Tensor]]:
        """The function that takes 1 or 10 views of pixels uint8 [b, 3, size, size]."""
        return {1: self.centre_view, 10: self.ten_views}[count]

    def centre_view(self, pixels: torch.Tensor) -> Iterator[torch.Tensor]:
        """The centre of each image, less the mean image's: one float32 [b, 3, crop, crop]."""
        yield self._view(pixels, *self._middle, mirror=False)

    def ten_views(self, pixels: torch.Tensor) -> Iterator[torch.Tensor]:
        """The centre and the four corners, each followed by its mirror image: ten float32 [b, 3, crop, crop]."""
        far = self.size - self.crop
        for y, x in (self._middle, (0, 0), (0, far), (far, 0), (far, far)):
            yield self._view(pixels, y, x, mirror=False)
            yield self._view(pixels, y, x, mirror=True)

    def centre(self, squares: torch.Tensor) -> torch.Tensor:
        """The part of [..., size, size] that the centre view shows."""
        y, x = self._middle
        return squares[..., y : y + self.crop, x : x + self.crop]

    @property
    def _middle(self) -> tuple[int, int]:
        return (self.size - self.crop) // 2, (self.size - self.crop) // 2

    def _view(self, pixels: torch.Tensor, y: int, x: int, mirror: bool) -> torch.Tensor:
        view = pixels.permute(0, 2, 3, 1)[:, y : y + self.crop, x : x + self.crop]
        if self.mean == "centre":
            view = (view.flip(2) if mirror else view) - self._mean_under(*self._middle)
        else:
            view = view - self._mean_under(y, x)
            view = view.flip(2) if mirror else view
        return view.permute(0, 3, 1, 2)

    def _mean_under(self, y: int, x: int) -> torch.Tensor:
        """The mean image's crop at y, x as [crop, crop, 3]."""
        return self.mean_image.permute(1, 2, 0).contiguous()[y : y + self.crop, x : x + self.crop]
