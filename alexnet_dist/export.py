"""A checkpoint's whole net in a form that others read; it is run or read back before it is called done.

python -m alexnet_dist.export checkpoint=runs/x format=safetensors output=x.safetensors
python -m alexnet_dist.export checkpoint=runs/x format=torch output=x.py          a plain torch module, with x.pt
python -m alexnet_dist.export checkpoint=runs/x format=onnx output=x.onnx
python -m alexnet_dist.export checkpoint=runs/x format=caffe output=x.npz
"""

import json
import tempfile
import textwrap
from collections.abc import Callable
from keyword import iskeyword
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic.dataclasses import dataclass

from alexnet_dist import __version__
from alexnet_dist.data.views import Preprocess
from alexnet_dist.errors import RunFailed, UserError
from alexnet_dist.fields import FilePath, check, named, strict
from alexnet_dist.files import check_new, publish_new
from alexnet_dist.formats import module
from alexnet_dist.formats.arrays import need, read_arrays
from alexnet_dist.formats.layouts import MEAN, from_caffe, to_caffe
from alexnet_dist.formats.onnx_file import run_onnx, write_onnx
from alexnet_dist.formats.safetensors_file import MEAN_SUBTRACTED, WholeNet, save_tensors, whole_net, write_safetensors
from alexnet_dist.launching.commands import command
from alexnet_dist.model.net import Net
from alexnet_dist.results.trained import A_CHECKPOINT, Trained, load_trained, open_trained
from alexnet_dist.text import printable

TOLERANCE = 1e-4  # of logits; where they reach beyond 1, of the largest


@dataclass(frozen=True, config=strict)
class ExportSettings:
    """What conf/export.yaml may say."""

    checkpoint: FilePath | None
    format: Literal["safetensors", "torch", "onnx", "caffe"] | None
    output: FilePath | None


ENDINGS = {"safetensors": (".safetensors",), "torch": (".py",), "onnx": (".onnx",), "caffe": (".npz", ".safetensors")}


def run(config: dict[str, Any]) -> None:
    """Write the files, check them, and only then give them their names."""
    wanted = check(ExportSettings, config)
    (checkpoint,) = named(wanted.checkpoint, "checkpoint", A_CHECKPOINT)
    if wanted.format is None or wanted.output is None:
        raise UserError(f"format and output are not set: take format={'|'.join(ENDINGS)} and name a file with output=...")
    output = check_new("output", wanted.output, *ENDINGS[wanted.format])
    if wanted.format == "torch":
        if not output.stem.isidentifier() or iskeyword(output.stem) or output.stem == "torch":
            raise UserError(f"output={wanted.output} is to be imported: give it a name that Python can import, such as net.py")
        check_new("output", str(output.with_suffix(".pt")))
    for package in {"onnx": ("onnx", "onnxscript", "onnxruntime")}.get(wanted.format, ()):
        need(package, "format=onnx")
    if output.suffix == ".safetensors":
        need("safetensors", f"output={wanted.output}")
    trained = open_trained(checkpoint)
    net, preprocess = load_trained(trained, torch.device("cpu"))
    write = {"safetensors": _safetensors, "torch": _torch, "onnx": _onnx, "caffe": _caffe}[wanted.format]
    try:
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as folder:
            said = write(Path(folder) / output.name, trained, net, preprocess)
            for file in sorted(Path(folder).iterdir()):
                publish_new(file, output.parent / file.name)
    except OSError as error:
        raise RunFailed(f"{output} could not be written ({error.strerror or error})") from error
    print(f"{output}: {said}")


def _safetensors(path: Path, trained: Trained, net: Net, preprocess: Preprocess) -> str:
    whole = WholeNet(
        parameters=net.state_dict(),
        statistics=dict(preprocess.named_buffers()),
        model=dict(trained.settings.model),
        size=trained.settings.data.size,
        mean=trained.settings.data.mean,
        classes=trained.classes,
        class_ids=trained.class_ids,
    )
    write_safetensors(path, whole, _origin(trained))
    read = whole_net(*read_arrays(path))
    _check_bits(path, {**whole.parameters, **whole.statistics}, {**read.parameters, **read.statistics})
    return f"{len(whole.parameters)} parameters, the mean image and the table; read back, every bit is the checkpoint's"


def _torch(path: Path, trained: Trained, net: Net, preprocess: Preprocess) -> str:
    path.write_text(_source(path.stem, trained), "utf-8")
    saved = {
        "parameters": {**net.state_dict(), "mean": preprocess.centre(preprocess.mean_image).contiguous()},
        "mean_image": preprocess.mean_image,
        "classes": trained.classes,
    }
    torch.save(saved, path.with_suffix(".pt"))
    namespace: dict[str, Any] = {"__file__": str(path), "__name__": path.stem}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    said = _check_logits(path, net, preprocess, namespace["load"]())
    return f"a torch.nn.Module, its parameters in {path.stem}.pt; run, {said}"


def _onnx(path: Path, trained: Trained, net: Net, preprocess: Preprocess) -> str:
    plain = module.build(_source("net", trained), net.state_dict(), preprocess.centre(preprocess.mean_image))
    said = {"origin": _origin(trained), "images": _expects(trained), "classes": json.dumps(trained.classes)}
    write_onnx(path, plain, trained.table.input_size, said)
    return f"run by onnxruntime, {_check_logits(path, net, preprocess, lambda images: run_onnx(path, images))}"


def _caffe(path: Path, trained: Trained, net: Net, preprocess: Preprocess) -> str:
    arrays = {**to_caffe(net.state_dict(), trained.table), MEAN: preprocess.mean_image.flip(0)}
    if path.suffix == ".npz":
        as_numpy: dict[str, Any] = {name: array.numpy() for name, array in arrays.items()}
        np.savez(path, **as_numpy)
    else:
        save_tensors(path, arrays, {"origin": _origin(trained), "model": trained.table.name})
    read, _ = read_arrays(path)
    difference = max(
        (ours - theirs).abs().max().item()
        for ours, theirs in zip(net.state_dict().values(), from_caffe(read, trained.table).values(), strict=True)
    )
    exact = "every bit is" if difference == 0 else f"parameters are within {difference:.1e} of"
    said = (
        f"{len(arrays) - 1} arrays of model={trained.table.name} in Caffe's layout and the mean image (BGR); taken back, {exact} "
        "the checkpoint's"
    )
    if trained.settings.data.mean == "centre":
        said += (
            ". The run subtracted the mean image's centre from every crop and Caffe subtracts the part that a crop lies on: the "
            "centre view alone is the same"
        )
    return said


def _origin(trained: Trained) -> str:
    return f"alexnet_dist {__version__}, {printable(str(trained.checkpoint))}, step {trained.state.step}"


def _expects(trained: Trained) -> str:
    size, crop = trained.settings.data.size, trained.table.input_size
    return (
        f"float32 [N, 3, {crop}, {crop}], RGB, values 0..255: the shorter side scaled to {size} pixels (triangle filter, "
        f"antialiased), the centre {crop} x {crop} cut out. The net subtracts the centre of the mean image itself. For "
        f"other crops and mirror images the run subtracted {MEAN_SUBTRACTED[trained.settings.data.mean]}."
    )


def _source(stem: str, trained: Trained) -> str:
    title = f"{trained.table.name}, a net of {trained.table.towers} towers, as one plain torch.nn.Module ({_origin(trained)})."
    logits = f"logits: float32 [N, {trained.table.classes}], of testing (dropout scales)."
    expects = "\n\n".join(textwrap.fill(text, 118) for text in (f"images: {_expects(trained)}", logits))
    return module.source_of(trained.table, stem, textwrap.fill(title, 118), expects)


def _check_logits(path: Path, net: Net, preprocess: Preprocess, exported: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """How far its logits are from the checkpoint's on a few images, in words. Raises RunFailed where it is too far."""
    generator = torch.Generator().manual_seed(0)
    squares = torch.randint(0, 256, (3, 3, preprocess.size, preprocess.size), generator=generator, dtype=torch.uint8)
    with torch.inference_mode():
        (view,) = preprocess.centre_view(squares)
        ours = torch.cat(net(view), dim=1)
        theirs = torch.cat([exported(images) for images in preprocess.centre(squares).float().split([1, 2])])
    difference, largest = (theirs - ours).abs().max().item(), ours.abs().max().item()
    if not difference <= TOLERANCE * max(1.0, largest):
        raise RunFailed(f"{path.name} gives logits that differ by {difference:.1e} from the checkpoint's and is not kept")
    return f"its logits are within {difference:.1e} of the checkpoint's, which reach {largest:.3g}"


def _check_bits(path: Path, ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    for name, tensor in ours.items():
        if not torch.equal(tensor, theirs[name]):
            raise RunFailed(f"{path.name} holds another {name} than the checkpoint and is not kept")


def main() -> None:
    command("export", run)


if __name__ == "__main__":
    main()
