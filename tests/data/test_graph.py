"""The DALI graph as a GPU gets it, built and serialised where there is none."""

import re
from typing import Any

import numpy as np
import pytest

from alexnet_dist.data import graph

OPTIONS = {"hw_decoder_load": 0.5, "device_memory_padding": 2**24, "host_memory_padding": 2**23}
OPERATORS = rb"ExternalSource|decoders__ImageSlice|_conditional__Split|Resize|_conditional__Merge"


def serialized(device: str, scales: bool = True, **options: Any) -> bytes:
    """DALI finds wrong arguments, types and devices at this; a device_id alone would ask for the driver."""
    built = graph._crops(lambda: np.zeros(1), 224, scales, device, options, batch_size=8, num_threads=2, device_id=None)
    return bytes(built.serialize())


@pytest.mark.parametrize("scales", [True, False])
def test_the_gpu_s_graph_is_the_cpu_s_on_another_device(scales: bool) -> None:
    on_cpu, on_gpu = (serialized(device, scales, **OPTIONS) for device in ("cpu", "mixed"))
    operators = re.findall(OPERATORS, on_cpu)
    assert (b"decoders__ImageSlice" in operators, b"Resize" in operators) == (True, scales)
    assert operators == re.findall(OPERATORS, on_gpu)
    assert (b"mixed" in on_cpu, b"mixed" in on_gpu) == (False, True)
    for name in (*OPTIONS, "jpeg_fancy_upsampling", *["roi_start"] * scales):
        assert name.encode() in on_gpu


@pytest.mark.parametrize("planted", [{"hw_decoder_lod": 0.5}, {"hw_decoder_load": "much"}])
def test_a_wrong_argument_is_found_without_a_gpu(planted: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        serialized("mixed", **planted)


def test_a_wrong_device_is_found_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    resize = graph.fn.resize
    monkeypatch.setattr(graph.fn, "resize", lambda pixels, **said: resize(pixels, device="cpu", **said))
    serialized("cpu")
    with pytest.raises((ValueError, RuntimeError)):
        serialized("mixed")
