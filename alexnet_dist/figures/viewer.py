"""How a net sees images, batch by batch: class probabilities and the features below them; and small pictures of images."""

import io
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from alexnet_dist.data.feed import ValidationFeed
from alexnet_dist.data.images import Images
from alexnet_dist.data.views import Preprocess
from alexnet_dist.model.net import Net, outputs_of
from alexnet_dist.text import printable

_THUMBNAIL = 128  # pixels of a side at most


def evenly_spread(count: int, wanted: int | None) -> list[int]:
    """At most `wanted` of the indices 0..count-1, as far apart as they can be; all of them for None."""
    if wanted is None or wanted >= count:
        return list(range(count))
    return [(2 * place + 1) * count // (2 * wanted) for place in range(wanted)]


def caption(images: Images, index: int) -> tuple[str, str]:
    """The name of an image's file and its label, to be shown."""
    return printable(Path(images.name(index)).name), printable(images.classes[images.labels[index]])


@dataclass(frozen=True)
class Viewer:
    """A whole net that sees images' centre views; `features` is the name of the layer below the classes (the paper's fc7)."""

    net: Net
    preprocess: Preprocess
    device: torch.device
    threads: int
    batch_size: int

    @property
    def features(self) -> str:
        return self.net.table.layers[-2:][0].name

    def pixels(self, images: Images) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """For each batch: uint8 [b, 3, size, size] and labels int64 [b], in the images' order; no padding."""
        feed = ValidationFeed(
            images,
            batch_size=self.batch_size,
            size=self.preprocess.size,
            threads=self.threads,
            device=self.device,
        )
        with closing(iter(feed)) as passing:
            for pixels, labels, samples in passing:
                real = samples >= 0
                yield pixels[real], labels[real]

    def see(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of pixels uint8 [b, 3, size, size]: softmax outputs float32 [b, classes], and the features float32 [b, units]: what the
        layer below the last hands on, both towers' together and flat."""
        with torch.inference_mode(), outputs_of(self.net, self.features) as made:
            (view,) = self.preprocess.centre_view(pixels)
            logits = torch.cat(self.net(view), dim=1)
            return logits.float().softmax(dim=1), torch.cat(made[self.features], dim=1).flatten(1).float()

    def thumbnails(self, images: Images) -> list[bytes]:
        """The centre squares of a few images as small JPEG files."""
        return [thumbnail(pixels) for batch, _ in self.pixels(images) for pixels in batch]


def thumbnail(pixels: torch.Tensor) -> bytes:
    """uint8 [3, H, W] as a JPEG file of at most 128 pixels a side."""
    picture = Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=82, optimize=True)
    return written.getvalue()


def open_picture(encoded: bytes) -> Image.Image:
    """An encoded image, in RGB."""
    return Image.open(io.BytesIO(encoded)).convert("RGB")
