"""The DALI graph as a GPU gets it, built and serialised where there is none."""

import re
from typing import Any

import numpy as np
import pytest

from alexnet_dist.data import graph

OPTIONS = {"hw_decoder_load": 0.5, "device_memory_padding": 2**24, "host_memory_padding": 2**23}
OPERATORS = rb"ExternalSource|decoders__ImageSlice|_conditional__Split|Resize|_conditional__Merge|Flip"


def serialized(device: str, **options: Any) -> bytes:
    """DALI finds wrong arguments, types and devices at this; a device_id alone would ask for the driver."""
    built = graph._crops(lambda: np.zeros(1), 224, device, options, batch_size=8, num_threads=2, device_id=None)
    return bytes(built.serialize())


def test_the_gpu_s_graph_is_the_cpu_s_on_another_device() -> None:
    on_cpu, on_gpu = (serialized(device, **OPTIONS) for device in ("cpu", "mixed"))
    assert re.findall(OPERATORS, on_cpu) == re.findall(OPERATORS, on_gpu)
    assert (b"mixed" in on_cpu, b"mixed" in on_gpu) == (False, True)
    for name in (*OPTIONS, "jpeg_fancy_upsampling", "roi_start"):
        assert name.encode() in on_gpu


@pytest.mark.parametrize("planted", [{"hw_decoder_lod": 0.5}, {"hw_decoder_load": "much"}])
def test_a_wrong_argument_is_found_without_a_gpu(planted: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        serialized("mixed", **planted)


def test_a_wrong_device_is_found_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    flip = graph.fn.flip
    monkeypatch.setattr(graph.fn, "flip", lambda pixels, horizontal: flip(pixels, horizontal=horizontal, device="cpu"))
    serialized("cpu")
    with pytest.raises((ValueError, RuntimeError)):
        serialized("mixed")
