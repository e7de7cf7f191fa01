"""What the net looks at in an image: the gradient of what it says with respect to the pixels, and the maps that answer most."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import Base64Bytes

from alexnet_dist.data.images import Images, Subset
from alexnet_dist.errors import UserError
from alexnet_dist.figures.style import drawing, short
from alexnet_dist.figures.viewer import Viewer, caption, evenly_spread, open_picture, thumbnail
from alexnet_dist.model.net import outputs_of
from alexnet_dist.model.table import Table

IMAGES = 4
_OF_ONE_LAYER = 5  # maps of each tower, where one layer is shown


@dataclass(frozen=True)
class Look:
    """An image's centre view, its label, the label said, and as small grey pictures the gradient and the maps."""

    name: str
    label: str
    said: str
    picture: Base64Bytes
    gradient: Base64Bytes
    maps: list[Base64Bytes]


@dataclass(frozen=True)
class Looks:
    """`columns` says of each map its layer and its tower."""

    columns: list[tuple[str, int]]
    looks: list[Look]


def look(viewer: Viewer, validation: Images, names: list[str], layer: str | None) -> Looks:
    """A few validation images, evenly spread, as the net sees them; `names` are its outputs'.

    Of each convolution the strongest map of each tower is kept, behind its pooling; of one `layer` the five strongest, or as many
    as there are. The gradient is that of the logit of the label said (Simonyan, Vedaldi and Zisserman, arXiv 1312.6034): at each
    pixel the largest absolute value over the colours.

    Raises:
        UserError: `layer` is no convolution of the net.
    """
    table = viewer.net.table
    layers = layers_with_maps(table, layer)
    each = 1
    if layer is not None:
        each = min(_OF_ONE_LAYER, next(row.filters for row in table.layers if row.name == layer) // table.towers)
    shown = Subset(validation, evenly_spread(len(validation), IMAGES))
    pixels = torch.cat([pixels for pixels, _ in viewer.pixels(shown)])
    said, gradients, maps = _see(viewer, pixels, layers)
    seen = viewer.preprocess.centre(pixels)
    looks = [
        Look(
            *caption(shown, place),
            said=names[said[place]],
            picture=thumbnail(seen[place]),
            gradient=_grey(gradients[place]),
            maps=[_grey(own) for towers in maps for tower in towers for own in _strongest(tower[place], each)],
        )
        for place in range(len(shown))
    ]
    return Looks([(name, tower) for name in layers for tower in range(table.towers) for _ in range(each)], looks)


def layers_with_maps(table: Table, layer: str | None) -> list[str]:
    """The convolutions' names, or the one wanted. Raises UserError where that is none of them."""
    names = [row.name for row in table.layers if row.kind == "conv"]
    if layer is None:
        return names
    if layer not in names:
        raise UserError(f"layer={layer} has no maps: the convolutions are {', '.join(names)}")
    return [layer]


def _see(viewer: Viewer, pixels: torch.Tensor, layers: list[str]) -> tuple[list[int], torch.Tensor, list[list[torch.Tensor]]]:
    """Of pixels uint8 [b, 3, size, size]: the labels said; float32 [b, crop, crop], how much the said logit depends on each
    pixel; for each layer and tower float32 [b, maps, h, w]."""
    with torch.enable_grad(), outputs_of(viewer.net, *layers) as made:
        (view,) = viewer.preprocess.centre_view(pixels)
        view = view.detach().requires_grad_()
        logits = torch.cat(viewer.net(view), dim=1)
        (gradient,) = torch.autograd.grad(logits.amax(dim=1).sum(), view)
    maps = [[own.detach().float().cpu() for own in made[name]] for name in layers]
    return logits.argmax(dim=1).tolist(), gradient.float().abs().amax(dim=1).cpu(), maps


def _strongest(maps: torch.Tensor, count: int) -> torch.Tensor:
    """Of [maps, h, w] the `count` that hold the largest values."""
    return maps[maps.amax(dim=(1, 2)).topk(count).indices]


def _grey(values: torch.Tensor) -> bytes:
    """[h, w] from 0 to its largest value, as a PNG file of 256 greys; what is below 0 is black."""
    scaled = (255 * values.clamp_min(0) / values.max().clamp_min(1e-12)).round().numpy().astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(scaled).save(written, "PNG", optimize=True)
    return written.getvalue()


def draw_maps(shown: Looks, path: Path) -> None:
    """A row for each image: itself, the gradient, the maps."""
    columns = 2 + len(shown.columns)
    with drawing(path, 36 + 76 * len(shown.looks), 66 * columns) as figure:
        cells = figure.subplots(len(shown.looks), columns, squeeze=False)
        for axes in cells.flat:
            axes.set_axis_off()
        for row, seen in zip(cells, shown.looks, strict=True):
            row[0].imshow(open_picture(seen.picture), interpolation="antialiased")
            row[0].text(0, -0.05, short(seen.said), fontsize=7, va="top", transform=row[0].transAxes)
            for axes, grey in zip(row[1:], [seen.gradient, *seen.maps], strict=True):
                axes.imshow(np.asarray(open_picture(grey))[:, :, 0], cmap="magma")
        titles = ["image", "gradient", *(f"{layer}\ntower {tower}" for layer, tower in shown.columns)]
        for axes, title in zip(cells[0], titles, strict=True):
            axes.set_title(title, fontsize=8, loc="center")
