"""Weights of other programs: their own nets' logits, the run folder that comes of them, and clear words where they do not fit."""

import argparse
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import alexnet
from torchvision.transforms.functional import normalize

from alexnet_dist import export, import_weights
from alexnet_dist.checks import check_net
from alexnet_dist.errors import UserError
from alexnet_dist.formats.arrays import read_arrays
from alexnet_dist.formats.caffemodel import read_mean
from alexnet_dist.formats.layouts import from_caffe, from_torchvision
from alexnet_dist.formats.weights import read_layers
from alexnet_dist.import_weights import ImportSettings, fit
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import build_table
from alexnet_dist.results.trained import open_trained
from tests.commands import read_metrics, read_tensors, run_command, train
from tests.forked import ranks, run_forked

# protobuf's wire format, by hand: the reader's own descriptors are not asked.
VARINT, BYTES = 0, 2


def _varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(len(payload)) + payload


def _blob(array: np.ndarray, old: bool) -> bytes:
    data = _field(5, array.astype("<f4").tobytes()) if old else _field(8, array.astype("<f8").tobytes())
    if old:
        shape = [1] * (4 - array.ndim) + list(array.shape)
        return b"".join(_varint(number << 3 | VARINT) + _varint(side) for number, side in enumerate(shape, 1)) + data
    return data + _field(7, _field(1, b"".join(_varint(side) for side in array.shape)))


def _caffemodel(arrays: dict[str, np.ndarray], old: bool) -> bytes:
    """A NetParameter with a layer without blobs before those with weight and bias."""
    layer, name, blobs = (2, 4, 6) if old else (100, 1, 7)
    net = _field(1, b"net") + _field(layer, _field(name, b"data"))
    for own in sorted({key.split(".")[0] for key in arrays}):
        parts = b"".join(_field(blobs, _blob(arrays[f"{own}.{part}"], old)) for part in ("weight", "bias"))
        net += _field(layer, _field(name, own.encode()) + parts)
    return net


@pytest.fixture(scope="module")
def caffe_arrays(two_runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The tiny net of a run in Caffe's layout, with its mean image."""
    path = tmp_path_factory.mktemp("caffe") / "x.npz"
    export.run({"checkpoint": str(two_runs[0]), "format": "caffe", "output": str(path)})
    return dict(np.load(path))


@pytest.mark.parametrize("old", [True, False], ids=["before mid-2014", "new"])
def test_a_caffemodel_becomes_a_run(
    old: bool, caffe_arrays: dict[str, np.ndarray], two_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    weights = {name: array for name, array in caffe_arrays.items() if name != "mean"}
    (tmp_path / "x.caffemodel").write_bytes(_caffemodel(weights, old))
    (tmp_path / "mean.binaryproto").write_bytes(_blob(caffe_arrays["mean"], old=True))
    classes = open_trained(str(two_runs[0])).classes
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    named = [f"{key}={tmp_path}/{name}" for key, name in (
        ("weights", "x.caffemodel"), ("mean", "mean.binaryproto"), ("classes", "classes.txt"), ("output", "run"),
    )]  # fmt: skip
    import_weights.run(compose("import_weights", [*named, "model=tiny", "data.size=64"]))
    expected, read = read_tensors(two_runs[0]), read_tensors(tmp_path / "run")
    for name, tensor in expected.items():
        if name.startswith("net.") or name == "data.mean_image":
            assert torch.equal(read[name], tensor), name
    assert open_trained(str(tmp_path / "run")).classes == classes


@pytest.mark.slow
def test_evaluate_predict_and_train_take_imported_weights(
    caffe_arrays: dict[str, np.ndarray], two_runs: tuple[Path, Path], few_images: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", **caffe_arrays)
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in open_trained(str(two_runs[0])).classes))
    words = ("weights=x.npz", "classes=classes.txt", "model=tiny", "data.size=64", "output=run")
    done = run_forked("import_weights", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before = read_tensors(two_runs[0])["net.fc8.bias"]
    data = f"data.root={few_images}"
    evaluated = run_forked("evaluate", "checkpoint=run", "views=1", data, cwd=tmp_path, environments=ranks(2))
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout.splitlines()[-1])["images"] == 64
    seen = run_command("predict", "checkpoint=run", f"images={few_images}/val/red-ellipse-flat/0000.jpg", cwd=tmp_path)
    assert seen.returncode == 0, seen.stderr
    assert "%" in seen.stdout
    small = ("trainer.max_steps=1", "trainer.batch_size=16", "trainer.log_every=1", "evaluation.views=1")
    trained = train("resume=run", "run.dir=tuned", data, *small, cwd=tmp_path)
    assert "resumed from run/checkpoints/step-00000000" in trained.stdout
    assert [record["step"] for record in read_metrics(tmp_path / "tuned")] == [1, 1]
    assert read_tensors(tmp_path / "tuned")["net.fc8.bias"].sub(before).norm() > 0


def test_means_of_caffe(tmp_path: Path, caffe_arrays: dict[str, np.ndarray]) -> None:
    (tmp_path / "mean.binaryproto").write_bytes(_blob(caffe_arrays["mean"], old=True))
    assert np.array_equal(read_mean(tmp_path / "mean.binaryproto").numpy(), caffe_arrays["mean"])


def test_torchvision_s_alexnet_gives_torchvision_s_logits() -> None:
    torch.manual_seed(4)
    theirs = alexnet(weights=None, num_classes=10).eval()
    config = compose("import_weights", ["model=torchvision", "model.layers.fc8.filters=10"])
    for key in ImportSettings.__dataclass_fields__:
        del config[key]
    settings = check_net(config)
    whole = fit(dict(theirs.state_dict()), settings, ImportSettings(None, None, None, None))
    net = Net(settings.table())
    net.load_state_dict(whole.parameters)
    pixels = torch.randint(0, 256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(5)).float()
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    with torch.inference_mode():
        expected = theirs(normalize(pixels / 255, mean, std))
        (ours,) = net(pixels - whole.statistics["mean_image"][:, 16:240, 16:240])
    assert expected.std() > 1e-3
    assert torch.allclose(ours, expected, rtol=0, atol=1e-4)
    assert torch.allclose(ours, expected, rtol=0, atol=1e-3 * expected.std().item())


_OPTIONS = argparse.Namespace(lr=0.01, data_path=Path("data"), device=torch.device("cpu"), best=np.float64(3))


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("checkpoint.pth.tar", lambda net: {"epoch": 3, "arch": "alexnet", "state_dict": net, "best_acc1": torch.tensor(1.0)}),
        ("model_9.pth", lambda net: {"model": net, "optimizer": {"state": {}, "param_groups": []}, "epoch": 9, "args": _OPTIONS}),
        ("model_9", lambda net: {"model": net, "model_ema": net, "epoch": 9}),
        ("last.ckpt", lambda net: {"state_dict": {f"model._orig_mod.{name}": array for name, array in net.items()}}),
        ("net.bin", lambda net: {"weights": {f"module.{name}": array for name, array in net.items()}, "best": np.float32(2)}),
        ("data_parallel.pth", lambda net: {name.replace("features.", "features.module."): array for name, array in net.items()}),
    ],
    ids=["pytorch/examples", "torchvision with args", "torchvision", "Lightning", "DistributedDataParallel", "features"],
)
def test_a_training_s_checkpoint_is_known_by_what_is_in_it(name: str, stored: Any, tmp_path: Path) -> None:
    torch.manual_seed(4)
    net = alexnet(weights=None).state_dict()
    torch.save(stored(net), tmp_path / name, _use_new_zipfile_serialization=name != "net.bin")
    table = build_table(compose("train", ["model=torchvision"])["model"])
    read = read_layers(tmp_path / name, table, "init_from")
    expected = from_torchvision(net, table)
    assert read.keys() == expected.keys() == table.parameter_shapes().keys()
    assert all(torch.equal(read[own], expected[own]) for own in expected)


def test_a_file_s_ending_does_not_say_what_it_is(caffe_arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    weights = {name: array for name, array in caffe_arrays.items() if name != "mean"}
    (tmp_path / "a.pth").write_bytes(_caffemodel(weights, old=False))
    with (tmp_path / "b.safetensors").open("wb") as file:
        np.savez(file, **weights)
    save_file({f"module.{name}": torch.from_numpy(array) for name, array in weights.items()}, tmp_path / "c.npz")
    for name in ("a.pth", "b.safetensors", "c.npz"):
        read, _ = read_arrays(tmp_path / name)
        assert read.keys() == weights.keys()
        assert all(np.array_equal(read[own].numpy(), weights[own]) for own in weights), name


def test_import_says_what_it_took_the_weights_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("model=torchvision", "model.layers.fc8.filters=10")
    net = {f"module.{name}": array for name, array in alexnet(weights=None, num_classes=10).state_dict().items()}
    torch.save({"state_dict": net, "epoch": 1}, tmp_path / "x.pth.tar")
    import_weights.run(compose("import_weights", [*small, f"weights={tmp_path}/x.pth.tar", f"output={tmp_path}/run"]))
    assert "taken as torchvision's, as model=torchvision, 10 classes" in capsys.readouterr().out


def test_weights_that_do_not_fit_are_refused_with_a_sentence(
    caffe_arrays: dict[str, np.ndarray], two_runs: tuple[Path, Path], tmp_path: Path
) -> None:
    arrays = {name: torch.from_numpy(array) for name, array in caffe_arrays.items()}
    torchvision = {f"features.{i}.{part}": torch.zeros(1) for i in (0, 3, 6, 8, 10) for part in ("weight", "bias")}
    torchvision |= {f"classifier.{i}.{part}": torch.zeros(1) for i in (1, 4, 6) for part in ("weight", "bias")}
    torchvision["features.0.weight"] = torch.zeros(64, 3, 11, 11)
    torch.save(torchvision, tmp_path / "torchvision.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "objects.pth")
    torch.save({"g": {"a": torch.ones(1)}, "d": {"a": torch.ones(1)}, "epoch": 3}, tmp_path / "several.pth")
    torch.save({"lr": 0.1, "epoch": 3}, tmp_path / "none.pth")
    torch.save({"layer1.0.weight": torch.zeros(64, 64, 3, 3)}, tmp_path / "resnet.pth")
    torch.save({"parameters": arrays, "mean_image": torch.zeros(3, 64, 64), "classes": ["a"]}, tmp_path / "module.pt")
    (tmp_path / "net.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    np.savez(tmp_path / "fits.npz", **caffe_arrays)
    np.savez(tmp_path / "lacks.npz", **{name: array for name, array in caffe_arrays.items() if name != "fc7.bias"})
    np.savez(tmp_path / "extra.npz", **caffe_arrays, conv9=np.zeros(3, np.float32))
    np.savez(tmp_path / "bare.npz", **{name: array for name, array in caffe_arrays.items() if name != "mean"})
    np.savez(tmp_path / "counts.npz", **{"conv1.weight": np.zeros(3, np.int64)})
    save_file(arrays, tmp_path / "named.safetensors", {"origin": "alexnet_dist 0.1.0", "model": "paper"})
    save_file(arrays, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:5000])
    (tmp_path / "text.caffemodel").write_text("this is no net")
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    (tmp_path / "many.txt").write_text("".join(f"{number}\n" for number in range(9)))
    tiny = ("model=tiny", "data.size=64")
    for words, said in (
        ((), "weights and output are not set"),
        (("weights=none.npz",), "none.npz is no file"),
        (("weights=net.h5",), "net.h5 cannot be read .* or another kind .safetensors, torch's .pt"),
        (("weights=text.caffemodel",), "cannot be read"),
        (("weights=cut.safetensors",), "cannot be read"),
        (("weights=objects.pth",), "objects.pth holds a pickled torch.nn.modules.linear.Linear, which is not loaded"),
        (("weights=several.pth",), "several.pth holds g, d, epoch, 2 state dicts and none is called state_dict or model"),
        (("weights=none.pth",), "none.pth holds lr, epoch, no state dict among them"),
        (("weights=module.pt",), "export with format=safetensors"),
        (("weights=resnet.pth",), "hold layer1.0.weight and lack conv1.weight"),
        (("weights=counts.npz",), "conv1.weight is of torch.int64"),
        (("weights=named.safetensors", *tiny), "is of the net paper, and model= gives tiny"),
        (("weights=lacks.npz", *tiny), "lack fc7.bias"),
        (("weights=extra.npz", *tiny), "hold conv9"),
        (("weights=fits.npz",), r"conv1.weight is \[32, 3, 7, 7\] in the weights and conv1.weight is \[96, 3, 11, 11\]"),
        (("weights=bare.npz", *tiny), r"mean=\[104,117,123\]"),
        (("weights=fits.npz", "model=tiny"), r"\[3, 256, 256\]"),
        (("weights=fits.npz", *tiny, "classes=twice.txt"), "names a twice"),
        (("weights=fits.npz", *tiny, "classes=many.txt"), "names 9 classes and the net tells 8 apart"),
        (("weights=torchvision.pth",), "the net of one tower of 2014"),
        (("weights=torchvision.pth", "model=cifar10", "data.size=32"), "5 layers in features and model=cifar10 has 3"),
        (("weights=torchvision.pth", "model=torchvision"), r"features.0.bias is \[1\] in the weights"),
        (("weights=fits.npz", *tiny, "model.layers.fc8.filters=10"), "set model.layers.fc8.filters=8"),
        (("weights=torchvision.pth", "model=torchvision", "mean=[1,2,3]"), "leave it out"),
    ):
        placed = [word.replace("=", f"={tmp_path}/", 1) if word.startswith(("weights=", "classes=")) else word for word in words]
        output = [f"output={tmp_path}/run"] if words else []
        with pytest.raises(UserError, match=said):
            import_weights.run(compose("import_weights", [*placed, *output]))
        assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="is there already"):
        import_weights.run(compose("import_weights", [f"weights={tmp_path}/fits.npz", f"output={two_runs[0]}", *tiny]))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_damaged_file_of_before_torch_1_6_is_refused_with_a_sentence(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "whole.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "whole.pth").read_bytes()
    cut = [whole[:end] for end in range(10, len(whole), 20)]
    random = np.random.default_rng(0)
    for data in cut:
        (tmp_path / "x.pth").write_bytes(data)
        with pytest.raises(UserError):
            read_arrays(tmp_path / "x.pth")
    taken = 0
    changed = [whole[:at] + random.bytes(1) + whole[at + 1 :] for at in range(2, len(whole), 3)]
    for data in changed:
        (tmp_path / "x.pth").write_bytes(data)
        with suppress(UserError):  # some bytes are of no matter
            read_arrays(tmp_path / "x.pth")
            taken += 1
    assert taken < len(changed) / 2


@pytest.mark.parametrize("mark", ["", "\N{BYTE ORDER MARK}"])
def test_ids_and_words_of_the_classes(mark: str, tmp_path: Path) -> None:
    lines = "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n"
    (tmp_path / "synset_words.txt").write_text(mark + lines, "utf-8")
    words, ids = import_weights.read_classes(str(tmp_path / "synset_words.txt"), 2)
    assert words == ["tench, Tinca tinca", "goldfish, Carassius auratus"]
    assert ids == ["n01440764", "n01443537"]


def test_a_dropout_that_nothing_can_fold_is_refused() -> None:
    words = ["model=tiny", "model.operations.relu.kind=tanh", "model.layers.fc6.then=[dropout,relu]"]
    table = build_table(compose("train", words)["model"])
    with pytest.raises(UserError, match="layer fc6 has relu behind a dropout"):
        from_caffe({}, table)
