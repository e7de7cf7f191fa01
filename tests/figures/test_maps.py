"""What the net looks at, beside what the exported plain torch module says of the same pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_dist import export
from alexnet_dist.data.images import Images, Subset
from alexnet_dist.data.views import Preprocess
from alexnet_dist.errors import UserError
from alexnet_dist.figures.examples import FILE, ExampleOptions, Examples, find_examples, read_examples
from alexnet_dist.figures.maps import IMAGES, Looks, draw_maps, layers_with_maps, look
from alexnet_dist.figures.predictions import Prediction, draw_predictions, predict
from alexnet_dist.figures.run_files import read_run
from alexnet_dist.figures.run_report import report_of_run
from alexnet_dist.figures.viewer import Viewer, open_picture, thumbnail
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import build_table
from alexnet_dist.results.trained import load_trained, open_trained
from alexnet_dist.settings import OtherImages
from alexnet_dist.tracking.display import Display
from alexnet_dist.training.inputs import open_root
from tests.data.jpegs import InMemory, encoded, photo

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def seen(two_runs: tuple[Path, Path], drawn_images: Path) -> tuple[Viewer, Images, list[str]]:
    trained = open_trained(str(two_runs[0]))
    viewer = Viewer(*load_trained(trained, CPU), CPU, threads=1, batch_size=100)
    return viewer, open_root(drawn_images, trained.settings.data)[1], trained.classes


def _plain(run: Path, folder: Path) -> torch.nn.Module:
    export.run({"checkpoint": str(run), "format": "torch", "output": str(folder / "plain.py")})
    namespace: dict[str, Any] = {"__file__": str(folder / "plain.py"), "__name__": "plain"}
    exec((folder / "plain.py").read_text(), namespace)
    return namespace["load"]()


def _scaled(values: torch.Tensor) -> np.ndarray:
    return (values.clamp_min(0) / values.max().clamp_min(1e-12)).numpy()


def _opened(picture: bytes) -> np.ndarray:
    return np.asarray(open_picture(picture))[:, :, 0] / 255


def test_gradient_and_maps_are_those_of_a_plain_torch_net(
    seen: tuple[Viewer, Images, list[str]], two_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    viewer, validation, names = seen
    shown = look(viewer, validation, names, "conv5")
    assert shown.columns == [("conv5", 0)] * 5 + [("conv5", 1)] * 5
    plain = _plain(two_runs[0], tmp_path)
    read: list[torch.Tensor] = []
    plain.fc6.register_forward_hook(lambda _layer, inputs, _output: read.append(inputs[0].detach()))
    pixels = torch.cat([batch for batch, _ in viewer.pixels(validation)])
    for place, one in enumerate(shown.looks):
        index = (2 * place + 1) * len(validation) // (2 * IMAGES)
        image = pixels[index : index + 1, :, 4:60, 4:60].float().requires_grad_()
        logits = plain(image)
        (gradient,) = torch.autograd.grad(logits.max(), image)
        assert (one.label, one.said) == (names[validation.labels[index]], names[int(logits.argmax())])
        np.testing.assert_allclose(_opened(one.gradient), _scaled(gradient[0].abs().amax(dim=0)), atol=0.01)
        for tower, maps in enumerate(read.pop().reshape(64, 2, 2).chunk(2)):
            order = maps.amax(dim=(1, 2)).argsort(descending=True)
            for picture, number in zip(one.maps[5 * tower : 5 * tower + 5], order, strict=False):
                np.testing.assert_allclose(_opened(picture), _scaled(maps[number]), atol=0.01)


def test_of_every_convolution_each_tower_has_a_map_and_they_are_drawn(
    seen: tuple[Viewer, Images, list[str]], tmp_path: Path
) -> None:
    shown: Looks = look(*seen, None)
    assert shown.columns == [(f"conv{number}", tower) for number in range(1, 6) for tower in (0, 1)]
    assert {len(one.maps) for one in shown.looks} == {10}
    draw_maps(shown, tmp_path / "maps.webp")
    assert open_picture((tmp_path / "maps.webp").read_bytes()).width == 2 * 66 * 12


def test_of_a_layer_with_few_maps_all_are_shown() -> None:
    table = build_table(compose("train", ["model=tiny", "model.layers.conv5.filters=6"])["model"])
    net = Net(table)
    net.initialise(0)
    viewer = Viewer(net, Preprocess(64, table.input_size, [0.0, 0.0, 0.0]), CPU, threads=1, batch_size=2)
    shown = look(viewer, InMemory([encoded(photo(seed, 64, 64)) for seed in range(2)]), [str(n) for n in range(8)], "conv5")
    assert shown.columns == [("conv5", 0)] * 3 + [("conv5", 1)] * 3
    assert {len(one.maps) for one in shown.looks} == {6}


def test_a_layer_without_maps_is_refused(seen: tuple[Viewer, Images, list[str]]) -> None:
    with pytest.raises(UserError, match="layer=fc6 has no maps: the convolutions are conv1, conv2"):
        layers_with_maps(seen[0].net.table, "fc6")


def test_a_report_ends_where_what_it_found_cannot_be_kept(
    two_runs: tuple[Path, Path], drawn_images: Path, tmp_path: Path
) -> None:
    (tmp_path / "x-figures" / FILE).mkdir(parents=True)
    options = ExampleOptions(8, 8, 8, "cpu", OtherImages(str(drawn_images)))
    with pytest.raises(UserError, match=r"examples.json cannot be written \(Is a directory\)"), Display(rank=0) as display:
        report_of_run(two_runs[0], options, display, output=str(tmp_path / "x.html"))
    assert not (tmp_path / "x.html").exists()


def test_what_was_kept_of_another_net_or_of_other_images_is_not_taken(
    two_runs: tuple[Path, Path], few_images: Path, tmp_path: Path
) -> None:
    def found(run: Path, val_every: int | None = None) -> Examples:
        options = ExampleOptions(8, 8, 8, "cpu", OtherImages(str(few_images), val_every=val_every))
        return find_examples(read_run(run), lambda: load_trained(open_trained(str(run)), CPU), options, tmp_path, lambda *_: None)

    first, other = found(two_runs[0]), found(two_runs[1])
    assert first.step == other.step
    assert first.outcome.predictions != other.outcome.predictions
    assert read_examples(read_run(two_runs[0]), tmp_path) is None
    assert read_examples(read_run(two_runs[1]), tmp_path) == found(two_runs[1]) == other
    kept = (tmp_path / FILE).stat().st_mtime_ns
    assert found(two_runs[1], val_every=2) == other, "which has a val/ of its own"
    assert (tmp_path / FILE).stat().st_mtime_ns > kept, "it was asked anew"


def test_right_is_told_by_label_where_classes_are_called_alike(seen: tuple[Viewer, Images, list[str]]) -> None:
    viewer, validation, _ = seen
    alike = Subset(validation, range(len(validation)))
    alike.classes = ("crane",) * len(validation.classes)
    told, outcome = (predict(viewer, images, 100, lambda *_: None) for images in (validation, alike))
    assert [one.place for one in outcome.predictions] == [one.place for one in told.predictions]
    assert {one.place == 0 for one in outcome.predictions} == {True, False}
    for one in told.predictions:
        assert one.label not in {name for place, (name, _) in enumerate(one.best) if place != one.place}


def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    picture = thumbnail(torch.zeros(3, 8, 8, dtype=torch.uint8))
    draw_predictions([Prediction("x", "a$b%c$", [("a$b%c$", 0.9), ("$^$", 0.1)], 0, picture)], tmp_path / "drawn.webp")
    assert (tmp_path / "drawn.webp").is_file()


def test_what_an_earlier_version_kept_is_not_taken(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"asked": {}, "examples": {"step": 8, "names": []}}')
    assert read_examples(read_run(two_runs[0]), tmp_path) is None
