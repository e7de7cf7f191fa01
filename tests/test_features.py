"""Features of a data set: what a layer hands on, computed apart, in both forms, and refused where they cannot be."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pyarrow import parquet

from alexnet_dist import features
from alexnet_dist.data.pictures import read_picture
from alexnet_dist.errors import UserError
from alexnet_dist.launching.commands import compose
from tests.commands import read_tensors


def _features(*words: str) -> None:
    features.run(compose("features", list(words)))


def _by_hand(run: Path, image: Path) -> torch.Tensor:
    """fc6 of the tiny net in one piece: two towers are groups of the layers that read their own maps."""
    tensors = read_tensors(run)
    mean = tensors["data.mean_image"][:, 4:60, 4:60]
    x = (read_picture(image, 64)[:, 4:60, 4:60] - mean)[None]

    def layer(name: str, x: torch.Tensor, groups: int, stride: int, pad: int) -> torch.Tensor:
        return F.conv2d(x, tensors[f"net.{name}.weight"], tensors[f"net.{name}.bias"], stride, pad, groups=groups).relu()

    def norm_of_towers(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([F.local_response_norm(half, 5, 1e-4, 0.75, 2) for half in x.chunk(2, 1)], 1)

    x = F.max_pool2d(norm_of_towers(layer("conv1", x, 1, 2, 2)), 3, 2)
    x = F.max_pool2d(norm_of_towers(layer("conv2", x, 2, 1, 2)), 3, 2)
    x = layer("conv4", layer("conv3", x, 1, 1, 1), 2, 1, 1)
    x = F.max_pool2d(layer("conv5", x, 2, 1, 1), 3, 2)
    return 0.5 * F.linear(x.flatten(1), tensors["net.fc6.weight"], tensors["net.fc6.bias"]).relu()[0]


def test_features_of_validation_images_as_npy(two_runs: tuple[Path, Path], few_images: Path, tmp_path: Path) -> None:
    _features(f"checkpoint={two_runs[0]}", "layer=fc6", f"output={tmp_path / 'fc6.npy'}", "batch_size=48")
    rows = np.load(tmp_path / "fc6.npy")
    with (tmp_path / "fc6.csv").open() as file:
        said = list(csv.DictReader(file))
    assert (rows.shape, rows.dtype, len(said)) == ((64, 256), np.float32, 64)
    for index in (0, 47, 48, 63):
        expected = _by_hand(two_runs[0], Path(said[index]["image"]))
        difference = np.linalg.norm(rows[index] - expected.numpy()) / np.linalg.norm(expected)
        assert difference < 0.01, index  # decoders differ by a grey level
        assert Path(said[index]["image"]).parent.name == said[index]["class"]


def test_maps_of_images_that_the_net_was_not_trained_on_as_parquet(
    two_runs: tuple[Path, Path], few_images: Path, tmp_path: Path
) -> None:
    others = tmp_path / "others" / "train" / "all"
    others.parent.mkdir(parents=True)
    others.symlink_to(few_images / "val" / "blue-ellipse-flat")
    words = (f"checkpoint={two_runs[0]}", f"data.root={tmp_path / 'others'}", "split=train", "layer=conv5")
    _features(*words, f"output={tmp_path / 'all.npy'}")
    assert len(np.load(tmp_path / "all.npy")) == 8, "images for validation are not needed"
    _features(*words, "data.val_every=5", f"output={tmp_path / 'conv5.parquet'}")
    table = parquet.read_table(tmp_path / "conv5.parquet")
    assert table.column_names == ["image", "class", "features"]
    assert (len(table), len(table["features"][0]), set(table["class"].to_pylist())) == (7, 64 * 2 * 2, {"all"})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["output=x.npy"], "checkpoint and output are not set"),
        (["checkpoint=RUN", "output=x.txt"], r"x.txt must end in .npy or .parquet"),
        (["checkpoint=RUN", "output=x.npy", "layer=fc9"], "layer=fc9 is none of the net's: they are conv1, conv2"),
    ],
)
def test_what_cannot_be_is_a_sentence(
    words: list[str], said: str, two_runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        _features(*(word.replace("RUN", str(two_runs[0])) for word in words))
