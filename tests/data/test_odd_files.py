"""Files that are no plain JPEGs: the feed (training's and evaluate's), prepare and predict make the same pixels of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_dist.data.feed import ValidationFeed
from alexnet_dist.data.images import Images, open_folder
from alexnet_dist.data.packed import open_packed
from alexnet_dist.data.pictures import read_picture
from tests.data.jpegs import photo
from tests.packing.miniature import odd_but_good, pack_here, write_files

SIDE = 48  # as they are stored: nothing is scaled
ODD = odd_but_good(photo(3, SIDE, SIDE))


def fed(images: Images) -> np.ndarray:
    """What the feed makes of all images, int [n, SIDE, SIDE, 3]."""
    device = torch.device("cpu")
    feed = ValidationFeed(
        images, batch_size=8, replica=0, replicas=1, part=0, parts=1, size=SIDE, threads=1, device=device, exchange=None
    )
    return torch.cat([pixels for pixels, _, _ in feed]).permute(0, 2, 3, 1).numpy().astype(int)[: len(images)]


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """By door, by file: the pixels."""
    folder = tmp_path_factory.mktemp("odd")
    # GIF and others are taken by their bytes, whatever their names say.
    root = write_files(folder / "source", {f"train/a/{name}.jpg": data for name, (data, _) in ODD.items()})
    packed = open_packed(pack_here(root, folder / "set", size=SIDE, quality=100))[0]
    kept = open_packed(pack_here(root, folder / "originals", size="keep", quality=100))[0]
    files = open_folder(root)[0]
    paths = [Path(files.name(index)) for index in range(len(files))]

    def by_name(images: Images) -> dict[str, np.ndarray]:
        stems = [Path(images.name(index)).stem.rpartition("_")[2] for index in range(len(images))]
        return dict(zip(stems, fed(images), strict=True))

    return {
        "feed": by_name(files),
        "predict": {path.stem: read_picture(path, SIDE).permute(1, 2, 0).numpy().astype(int) for path in paths},
        "prepare": by_name(packed),
        "prepare size=keep": by_name(kept),
    }


@pytest.mark.parametrize("name", ODD)
def test_every_door_shows_the_same_picture(name: str, doors: dict[str, dict[str, np.ndarray]]) -> None:
    shown = np.asarray(ODD[name][1]).astype(int)
    for door, pixels in doors.items():
        assert np.abs(pixels[name] - shown).mean() < 4, door  # of which a JPEG's own losses are 3
        assert np.abs(pixels[name] - doors["feed"][name]).mean() < 1.5, door
    assert np.abs(doors["feed"][name] - doors["predict"][name]).max() <= 1
