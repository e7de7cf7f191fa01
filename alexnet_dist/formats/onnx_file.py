"""A net as an ONNX file, and what onnxruntime makes of one."""

import contextlib
import io
import logging
import signal
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

OPSET = 18  # what torch's exporter writes without converting; onnxruntime reads it since 1.14


def write_onnx(path: Path, net: nn.Module, input_size: int, said: Mapping[str, str]) -> None:
    """Write a plain net (formats/module.py) that maps `images` [batch, 3, input, input] to `logits` [batch, classes].

    The batch is free. `said` goes into the model's metadata.
    """
    import onnx

    example = torch.zeros(2, 3, input_size, input_size)
    # The exporter prints its progress and warns of what concerns its developers.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        with _signals_wait():
            torch.onnx.export(
                net,
                (example,),
                path,
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                opset_version=OPSET,
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                external_data=False,
            )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(said))
    onnx.checker.check_model(model)
    onnx.save(model, path)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """A signal is heard at the end: the exporter takes what a handler raises for a failure of its own."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_onnx(path: Path, images: torch.Tensor) -> torch.Tensor:
    """The logits of float32 images [N, 3, input, input] by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
