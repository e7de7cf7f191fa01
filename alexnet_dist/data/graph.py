"""The DALI graphs: encoded bytes and the sample plan's numbers in, uint8 crops out."""

from collections.abc import Sequence

import numpy as np
import torch
from nvidia.dali import Pipeline, fn, types

from alexnet_dist.data.images import Images
from alexnet_dist.data.plan import Draws
from alexnet_dist.errors import UserError


class Decoder:
    """Decodes batches of images, two under way at a time: one runs while the other is taken over or fed.

    Decode to RGB (EXIF orientation honoured), scale the shorter side to `size`, cut the centre size x size, and, for
    training (`crop` given), cut crop x crop at the drawn offset and mirror as drawn (paper, sections 2 and 4.1). The same
    graph runs on the CPU and on a GPU, where `device` is one. The mean image and the colour noise are not applied here:
    they are floats, and are added on the device once the towers have exchanged their crops.
    """

    def __init__(self, images: Images, batch: int, size: int, crop: int | None, threads: int, device: torch.device) -> None:
        self._images = images
        self._device = device
        self._crop = crop
        self._side = crop or size
        self._size = size
        self._idle = [_build(batch, size, crop, threads, device) for _ in range(2)]
        self._running: list[tuple[Pipeline, np.ndarray]] = []

    def submit(self, samples: np.ndarray, draws: Draws | None) -> None:
        """Begin to decode samples int64 [b], with their draws when cropping; at most two batches may be under way."""
        pipeline = self._idle.pop(0)
        pipeline.feed_input("encoded", [self._images.read(int(sample)) for sample in samples])
        if draws is not None:
            span = max(self._size - self._side, 1)
            for name, offsets in (("y", draws.y), ("x", draws.x)):
                pipeline.feed_input(name, list((offsets / span).astype(np.float32)))
            pipeline.feed_input("mirror", list(draws.mirror.astype(np.int32)))
        pipeline.schedule_run()
        self._running.append((pipeline, samples))

    def fetch(self) -> torch.Tensor:
        """The oldest batch under way, uint8 [b, 3, side, side] on the device.

        Raises:
            UserError: an image cannot be decoded; the sentence names it.
        """
        pipeline, samples = self._running.pop(0)
        try:
            (decoded,) = pipeline.share_outputs()
        except RuntimeError as error:
            raise self._explain(samples, error) from None
        if self._device.type == "cuda":
            pixels = torch.from_dlpack(decoded.as_tensor()).clone()
        else:
            pixels = torch.from_numpy(np.array(decoded.as_tensor()))
        pipeline.release_outputs()
        self._idle.append(pipeline)
        return pixels

    def _explain(self, samples: np.ndarray, error: RuntimeError) -> Exception:
        """Which image of a failed batch is to blame: each is tried alone, since DALI often does not name it."""
        for sample in samples:
            alone = _build(1, self._size, None, 1, self._device)
            try:
                alone.feed_input("encoded", [self._images.read(int(sample))])
                alone.run()
            except RuntimeError as reason:
                why = _reason(reason)
                name = self._images.name(int(sample))
                return UserError(f"{name} cannot be decoded ({why}): remove it, put a good copy in its place, or prepare the set")
        return error


def decode_all(
    images: Images, samples: Sequence[int] | np.ndarray, batch: int, size: int, threads: int, device: torch.device
):  # type: ignore[no-untyped-def]
    """Yield uint8 [b, 3, size, size] of the given samples, in order, the last batch as short as it comes."""
    decoder = Decoder(images, batch, size, None, threads, device)
    chunks = [np.asarray(samples[i : i + batch]) for i in range(0, len(samples), batch)]
    for i, chunk in enumerate(chunks):
        if i == 0:
            decoder.submit(chunk, None)
        if i + 1 < len(chunks):
            decoder.submit(chunks[i + 1], None)
        yield decoder.fetch()


def _build(batch: int, size: int, crop: int | None, threads: int, device: torch.device) -> Pipeline:
    on_gpu = device.type == "cuda"
    pipeline = Pipeline(
        batch_size=batch, num_threads=threads, device_id=device.index if on_gpu else None, prefetch_queue_depth=1
    )
    with pipeline:
        encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
        whole = fn.decoders.image(encoded, device="mixed" if on_gpu else "cpu", output_type=types.RGB)
        scaled = fn.resize(whole, resize_shorter=size, interp_type=types.INTERP_LINEAR, antialias=True)
        centre = {"dtype": types.UINT8, "output_layout": "CHW", "mean": [0.0] * 3, "std": [1.0] * 3}
        if crop is None:
            cut = fn.crop_mirror_normalize(scaled, crop=(size, size), **centre)
        else:
            y, x = (fn.external_source(name=name, dtype=types.FLOAT, ndim=0) for name in ("y", "x"))
            mirror = fn.external_source(name="mirror", dtype=types.INT32, ndim=0)
            square = fn.crop(scaled, crop=(size, size))
            cut = fn.crop_mirror_normalize(
                square, crop=(crop, crop), crop_pos_y=y, crop_pos_x=x, mirror=mirror, **centre
            )
        pipeline.set_outputs(cut)
    pipeline.build()
    return pipeline


def _reason(error: RuntimeError) -> str:
    """The line of DALI's message that says what was wrong with the bytes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line and "encountered" not in line and "Critical" not in line]
    return (telling or lines or ["no reason given"])[0][:200].rstrip(".:")
