"""What a layer of a checkpoint's net makes of the images of a data set: features for other programs, a row an image.

python -m alexnet_dist.features checkpoint=runs/x layer=fc7 output=fc7.npy
python -m alexnet_dist.features checkpoint=runs/x layer=fc7 split=train data.root=/data/others output=fc7.parquet

The authors' program had it as shownet.py --write-features, and read it with findsimilar.py.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic.dataclasses import dataclass

from alexnet_dist.data.images import Images
from alexnet_dist.errors import UserError
from alexnet_dist.fields import FilePath, Positive, check, strict
from alexnet_dist.files import check_new, write_new
from alexnet_dist.formats.arrays import need
from alexnet_dist.launching.commands import command
from alexnet_dist.model.net import outputs_of
from alexnet_dist.parallel.mesh import join_mesh
from alexnet_dist.parallel.process import pick_device, set_precision, share_cores
from alexnet_dist.results.trained import Trained, load_trained, open_trained
from alexnet_dist.settings import OtherImages
from alexnet_dist.text import printable
from alexnet_dist.tracking.display import Display
from alexnet_dist.training.inputs import QUICKSTART_FOLDER, open_root, validation_feed


@dataclass(frozen=True, config=strict)
class FeaturesSettings:
    """What conf/features.yaml may say."""

    checkpoint: FilePath | None
    layer: str
    output: FilePath | None
    split: Literal["val", "train"]
    batch_size: Positive
    device: Literal["auto", "cpu", "cuda"]
    data: OtherImages


def run(config: dict[str, Any]) -> None:
    """Compute the features of the centre view of every image, and write them."""
    wanted = check(FeaturesSettings, config)
    if wanted.checkpoint is None or wanted.output is None:
        raise UserError("checkpoint and output are not set: name a run folder with checkpoint=... and a new file with output=...")
    output = check_new("output", wanted.output, ".npy", ".parquet")
    if output.suffix == ".npy":
        check_new("output", str(output.with_suffix(".csv")))
    else:
        need("pyarrow", f"output={wanted.output}", extra="parquet")
    evaluation = {"views": 1, "batch_size": wanted.batch_size}
    trained = open_trained(wanted.checkpoint).overridden(wanted.data, device=wanted.device, evaluation=evaluation)
    if wanted.data.root and wanted.data.val_every is None:  # what the run set aside was of its own images
        trained = replace(trained, settings=replace(trained.settings, data=replace(trained.settings.data, val_every=None)))
    names = [layer.name for layer in trained.table.layers]
    if wanted.layer not in names:
        raise UserError(f"layer={wanted.layer} is none of the net's: they are {', '.join(names)}")
    rows, images = compute(trained, wanted.layer, wanted.split)
    said = {
        "image": [printable(images.name(index)) for index in range(len(images))],
        "class": [printable(images.class_ids[label]) for label in images.labels],
    }
    (write_npy if output.suffix == ".npy" else write_parquet)(output, rows, said)
    print(f"{output}: what {wanted.layer} makes of {len(rows)} images, {rows.shape[1]} values each")


def compute(trained: Trained, layer: str, split: str) -> tuple[np.ndarray, Images]:
    """The features of a split's n images, by this process alone: float32 [n, units]; and the images in the same order, with the
    labels of their own folders."""
    settings = trained.settings
    device = pick_device(settings.device, local_rank=0)
    set_precision("fp32", device)
    threads = share_cores(1)
    torch.set_num_threads(threads)
    with join_mesh(trained.table.towers, device, settings.parallel.timeout) as mesh, Display(mesh.rank) as display:
        validates = split == "val"
        images = open_root(Path(settings.data.root or QUICKSTART_FOLDER), settings.data, validates)[validates]
        net, preprocess = load_trained(trained, device)
        feed = validation_feed(settings, images, mesh, threads)

        rows = np.empty((0, 0), np.float32)
        with torch.inference_mode(), outputs_of(net, layer) as made, closing(iter(feed)) as passing:
            for done, (pixels, _, samples) in enumerate(passing, 1):
                for view in preprocess.centre_view(pixels):
                    net(view)
                batch, real = torch.cat(made[layer], dim=1).flatten(1).float().cpu().numpy(), (samples >= 0).cpu().numpy()
                if not rows.size:
                    rows = np.empty((len(images), batch.shape[1]), np.float32)
                rows[samples.cpu().numpy()[real]] = batch[real]
                display.show("features", done, len(feed))
        return rows, images


def write_npy(output: Path, rows: np.ndarray, said: Mapping[str, Sequence[str]]) -> None:
    """The rows as .npy, and beside it as .csv what is said of each."""
    table = io.StringIO()
    lines = csv.writer(table)
    lines.writerow(("row", *said))
    lines.writerows(zip(range(len(rows)), *said.values(), strict=True))
    write_new(output.with_suffix(".csv"), lambda file: file.write(table.getvalue().encode()))
    try:
        write_new(output, lambda file: np.save(file, rows))
    except BaseException:
        output.with_suffix(".csv").unlink()  # one is no use without the other
        raise


def write_parquet(output: Path, rows: np.ndarray, said: Mapping[str, Sequence[str]]) -> None:
    """A column for each of what is said of the rows, and `features`, lists of float32."""
    import pyarrow
    from pyarrow import parquet

    features = pyarrow.FixedSizeListArray.from_arrays(rows.ravel(), rows.shape[1])
    write_new(output, lambda file: parquet.write_table(pyarrow.table({**said, "features": features}), file))


def main() -> None:
    command("features", run)


if __name__ == "__main__":
    main()
