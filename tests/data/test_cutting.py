"""cut.cpp against torch, to the byte: every way of compiling it, and what takes its place where there is no compiler."""

import ctypes
import platform
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet_dist.data import cutting
from alexnet_dist.data.places import Places
from alexnet_dist.kernels import native
from tests.data.jpegs import InMemory, encoded, photo
from tests.data.test_decode import decoded, drawn_cuts

SOURCE = Path(cutting.__file__).with_name("cut.cpp")
FAMILIES = ["native", "plain", "x86-64", "x86-64-v3", "x86-64-v4"] if platform.machine() == "x86_64" else ["native"]


def flags_of(family: str) -> tuple[str, ...]:
    """For a family of processors; plain: as for one that is no x86."""
    if family == "plain":
        return (*native.FLAGS, "-U__SSE2__", "-U__AVX2__", "-U__AVX512BW__", "-U__AVX512VBMI__")
    return tuple(flag.replace("march=native", f"march={family}") for flag in native.FLAGS)


def runs_here(family: str) -> bool:
    flags = Path("/proc/cpuinfo").read_text()
    return {"x86-64-v3": " avx2 ", "x86-64-v4": " avx512bw "}.get(family, "") in flags


def scaled_and_cut(image: torch.Tensor, size: int, crop: int, y: int, x: int, mirror: bool) -> torch.Tensor:
    """The same by torch, of the whole image: uint8 [crop, crop, 3]."""
    places = Places.of(np.array([image.shape[:2]]), np.array([[y, x]]), size)
    (height, width), (top, left) = places.scaled[0].tolist(), places.first[0].tolist()
    planes = F.interpolate(image.permute(2, 0, 1)[None], (height, width), mode="bilinear", antialias=True)[0]
    pixels = planes.permute(1, 2, 0)[top : top + crop, left : left + crop]
    return pixels.flip(1) if mirror else pixels


def cut_alone(library: ctypes.CDLL, image: torch.Tensor, size: int, crop: int, y: int, x: int, mirror: bool) -> torch.Tensor:
    """By a library, from the region that is decoded."""
    places = Places.of(np.array([image.shape[:2]]), np.array([[y, x]]), size)
    (first,), (last,) = places.read(crop)
    region = image[first[0] : last[0], first[1] : last[1]].contiguous()
    fields = [*first, last[1] - first[1], *places.sides[0], *places.scaled[0], *places.first[0], mirror]
    row, regions, taken = np.array(fields, np.int64), np.array([region.data_ptr()], np.uint64), np.zeros(1, np.int64)
    pixels = torch.empty(crop, crop, 3, dtype=torch.uint8)
    pointers = [ctypes.c_void_p(place) for place in (regions.ctypes.data, row.ctypes.data, pixels.data_ptr(), taken.ctypes.data)]
    library.cut(*pointers[:2], ctypes.c_int64(1), ctypes.c_int64(crop), *pointers[2:])
    return pixels


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_are_those_of_torch_on_the_whole_image(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not runs_here(family):
        pytest.skip(f"this processor is no {family}")
    monkeypatch.setattr(native, "FLAGS", flags_of(family))
    library = native.load_library(SOURCE)
    generator = np.random.default_rng(0)
    for largest in (8, 40, 300, 1500):  # larger and smaller than what they are scaled to
        for _ in range(40):
            height, width = generator.integers(max(1, largest // 8), largest, 2)
            size = int(generator.integers(1, 300))
            crop = int(generator.integers(1, size + 1))
            y, x = (int(v) for v in generator.integers(0, size - crop + 1, 2))
            image = torch.from_numpy(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
            for mirror in (False, True):
                made = cut_alone(library, image, size, crop, y, x, mirror)
                expected = scaled_and_cut(image, size, crop, y, x, mirror)
                assert torch.equal(made, expected), (height, width, size, crop, y, x, mirror)


@pytest.mark.parametrize("width", [1, 4, 5, 6, 31, 224])
def test_images_are_mirrored_in_place(width: int) -> None:
    images = torch.randint(0, 256, (5, width, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = images.clone()
    expected[[0, 3]] = expected[[0, 3]].flip(2)
    rows = np.array([0, 3])
    native.load_library(SOURCE).mirror(
        ctypes.c_void_p(images.data_ptr()), ctypes.c_void_p(rows.ctypes.data), ctypes.c_int64(2), ctypes.c_int64(width)
    )
    assert torch.equal(images, expected)


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    def leave() -> None:
        monkeypatch.setenv("CXX", "no-such-compiler")
        cutting.load_cutter.cache_clear()

    yield leave
    cutting.load_cutter.cache_clear()


@pytest.mark.parametrize(("size", "crop"), [(128, 112), (300, 37), (96, 96)])
def test_without_a_compiler_torch_gives_the_same_pixels(size: int, crop: int, without_compiler, capfd) -> None:  # type: ignore[no-untyped-def]
    sides = [(500, 375), (375, 500), (96, 96), (96, 131), (257, 256), (64, 64), (1200, 40), (301, 300)]
    images = InMemory([encoded(photo(seed, *side), quality=95) for seed, side in enumerate(sides * 2)])
    cuts = drawn_cuts(len(images), size - crop + 1)
    compiled = decoded(images, cuts, size, crop)
    without_compiler()
    np.testing.assert_array_equal(decoded(images, cuts, size, crop), compiled)
    said = capfd.readouterr().err
    assert said.count("warning: there is no C++ compiler (no-such-compiler): images are scaled and mirrored by torch") == 1
