"""A checkpoint in other forms: each is opened by what a stranger has, and gives the checkpoint's logits."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from alexnet_dist import export, import_weights
from alexnet_dist.errors import UserError
from alexnet_dist.formats.arrays import need
from alexnet_dist.launching.commands import compose
from alexnet_dist.results.trained import load_trained, open_trained
from tests.commands import change_state, read_tensors
from tests.data.test_decode import reference
from tests.forked import run_forked

CPU = torch.device("cpu")

# What a person without this package does with x.py.
STRANGER = """
import sys
sys.modules["alexnet_dist"] = None
import numpy as np, torch
from x import load
net = load()
images = torch.from_numpy(np.load("images.npy"))
np.save("logits.npy", net(images).detach().numpy())
assert net.classes[0] == "blue-ellipse-flat" and net.mean_image.shape == (3, 64, 64)
loss = net(images).square().mean(); loss.backward()
assert all(p.grad is not None for p in net.parameters())
"""


def _export(checkpoint: Path, kind: str, output: Path) -> Path:
    export.run({"checkpoint": str(checkpoint), "format": kind, "output": str(output)})
    return output


@pytest.fixture(scope="module")
def expected(two_runs: tuple[Path, Path], drawn_images: Path) -> tuple[np.ndarray, np.ndarray]:
    """Centre crops of some images, float32 [N, 3, 56, 56] in 0..255, and the checkpoint's logits of them."""
    files = sorted((drawn_images / "val").glob("*/000[0-4].jpg"))
    squares = np.stack([reference(Image.open(file), 64, 64, 0, 0) for file in files]).transpose(0, 3, 1, 2)
    net, preprocess = load_trained(open_trained(str(two_runs[0])), CPU)
    with torch.inference_mode():
        (view,) = preprocess.centre_view(torch.from_numpy(squares.copy()))
        logits = torch.cat(net(view), dim=1).numpy()
    assert logits.std() > 0.01
    return squares[:, :, 4:60, 4:60].astype(np.float32), logits


def test_a_plain_torch_module(two_runs: tuple[Path, Path], expected: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    _export(two_runs[0], "torch", tmp_path / "x.py")
    np.save(tmp_path / "images.npy", expected[0])
    done = subprocess.run([sys.executable, "-c", STRANGER], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "alexnet_dist." not in (tmp_path / "x.py").read_text().replace("alexnet_dist 0", "")
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected[1], rtol=0, atol=1e-4)


def test_onnx(two_runs: tuple[Path, Path], expected: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    done = run_forked("export", f"checkpoint={two_runs[0]}", "format=onnx", "output=x.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("x.onnx: run by onnxruntime, its logits are within ")
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    images, logits = expected
    for batch in (1, 7, len(images)):
        ours = session.run(["logits"], {"images": images[:batch]})[0]
        np.testing.assert_allclose(ours, logits[:batch], rtol=0, atol=1e-4)
    model = onnx.load(tmp_path / "x.onnx")
    assert {entry.key for entry in model.metadata_props} >= {"images", "classes", "origin"}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]


def test_safetensors_hold_every_bit_and_come_back_as_a_run(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    path = _export(two_runs[1], "safetensors", tmp_path / "x.safetensors")
    with safe_open(path, framework="np") as file:
        said = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors = read_tensors(two_runs[1])
    for name, array in arrays.items():
        assert np.array_equal(array, tensors[name if name.startswith("data.") else f"net.{name}"].numpy()), name
    assert len(arrays) == 16 + 3
    assert "56" in said["preprocessing"]
    assert "red-ellipse-flat" in said["classes"]
    with pytest.raises(UserError, match="of model=tiny with classes and a mean of its own: leave out mean=, model="):
        _import(tmp_path / "back", ("model=paper",), weights=str(path), mean="[1,2,3]")
    refused = run_forked("import_weights", f"weights={path}", "output=back", "data.size=300", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("leave out data.size=")) == (2, 1)
    _import(tmp_path / "back", weights=str(path))
    back = open_trained(str(tmp_path / "back"))
    assert back.classes == open_trained(str(two_runs[1])).classes
    assert back.table.layers[0].then[1].kind == "identity", "the table is the file's"
    read = read_tensors(tmp_path / "back")
    for name, tensor in tensors.items():
        if not name.startswith("momentum."):
            assert torch.equal(read[name], tensor), name


def test_a_net_without_a_name_comes_back_too(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(two_runs[0], tmp_path / "run")
    change_state(tmp_path / "run", lambda saved: saved["config"]["model"].pop("name"))
    path = _export(tmp_path / "run", "safetensors", tmp_path / "x.safetensors")
    _import(tmp_path / "back", weights=str(path))
    assert open_trained(str(tmp_path / "back")).table.name == "unnamed"


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
def test_a_round_trip_through_caffe_s_layout_is_exact(two_runs: tuple[Path, Path], ending: str, tmp_path: Path) -> None:
    path = _export(two_runs[0], "caffe", tmp_path / f"x{ending}")
    if ending == ".npz":
        arrays, tensors = np.load(path), read_tensors(two_runs[0])
        assert np.array_equal(arrays["conv1.weight"][:, ::-1], tensors["net.conv1.weight"].numpy()), "BGR"
        assert np.array_equal(arrays["conv2.weight"], tensors["net.conv2.weight"].numpy())
        assert np.array_equal(arrays["fc7.weight"], tensors["net.fc7.weight"].numpy() / 2), "behind a dropout of one half"
    _import(tmp_path / "back", weights=str(path), overrides=("model=tiny", "data.size=64"))
    expected, read = read_tensors(two_runs[0]), read_tensors(tmp_path / "back")
    for name, tensor in expected.items():
        if name.startswith("net.") or name == "data.mean_image":
            assert torch.equal(read[name], tensor), name


@pytest.fixture(scope="module")
def centre_mean(two_runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that subtracted the centre of its mean image from every crop, as the authors' program did."""
    folder = tmp_path_factory.mktemp("centre")
    weights = _export(two_runs[0], "caffe", folder / "x.npz")
    _import(folder / "run", weights=str(weights), overrides=("model=tiny", "data.size=64", "data.mean=centre"))
    return folder / "run"


def test_an_export_subtracts_the_mean_as_its_run_did(centre_mean: Path, tmp_path: Path) -> None:
    path = _export(centre_mean, "safetensors", tmp_path / "x.safetensors")
    _import(tmp_path / "back", weights=str(path))
    squares = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    of_run, back = (load_trained(open_trained(str(run)), CPU)[1].ten_views(squares) for run in (centre_mean, tmp_path / "back"))
    for ours, theirs in zip(of_run, back, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", ["torch", "caffe", "safetensors"])
def test_an_export_says_which_part_of_the_mean_its_run_subtracted(
    kind: str, centre_mean: Path, two_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ending = {"torch": "py", "caffe": "npz", "safetensors": "safetensors"}[kind]
    said = []
    for name, run in (("aligned", two_runs[0]), ("centre", centre_mean)):
        text = _export(run, kind, tmp_path / f"{name}.{ending}").read_bytes().decode(errors="replace")
        said.append(" ".join((capsys.readouterr().out if kind == "caffe" else text).split()))
    words = "the centre view alone is the same" if kind == "caffe" else "the centre of the mean image, wherever the crop lies"
    assert words not in said[0]
    assert words in said[1]


def test_what_cannot_be_exported_is_refused_and_nothing_is_overwritten(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_text("mine")
    (tmp_path / "y.pt").write_text("mine")
    for kind, output, said in (
        ("onnx", "x.onnx", "is there already"),
        ("torch", "y.py", "y.pt is there already"),
        ("onnx", "x.safetensors", "must end in .onnx"),
        ("torch", "my-net.py", "that Python can import"),
        ("caffe", "no/where.npz", "no folder"),
    ):
        with pytest.raises(UserError, match=said):
            _export(two_runs[0], kind, tmp_path / output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.onnx", "y.pt"]
    assert (tmp_path / "x.onnx").read_text() == (tmp_path / "y.pt").read_text() == "mine"


def test_a_package_that_is_not_installed_is_named_with_the_extra_that_brings_it() -> None:
    with pytest.raises(UserError, match=r"format=onnx needs the package no_such: .* 'alexnet-dist\[export\]'"):
        need("no_such", "format=onnx")


def _import(output: Path, overrides: tuple[str, ...] = (), **settings: Any) -> None:
    words = [f"{name}={value}" for name, value in settings.items()]
    import_weights.run(compose("import_weights", [*overrides, *words, f"output={output}"]))
