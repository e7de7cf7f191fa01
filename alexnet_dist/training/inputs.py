"""From the settings to the images of a run and the feeds that bring them to this process."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch.distributed as dist

from alexnet_dist.data import quickstart
from alexnet_dist.data.bad_image import BadImage, BadImageError
from alexnet_dist.data.feed import TrainFeed, ValidationFeed, check_fills_a_batch
from alexnet_dist.data.images import Images, Subset, open_folder, set_aside
from alexnet_dist.data.listing import refuse_among_images
from alexnet_dist.data.packed import PackedImages, is_packed, open_packed, read_statistics
from alexnet_dist.data.statistics import Statistics, gather
from alexnet_dist.errors import UserError
from alexnet_dist.packing.sources import form_of
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.results.trained import same_classes
from alexnet_dist.settings import DataSettings, Settings
from alexnet_dist.tracking.display import Display
from alexnet_dist.training.bad_images import check_headers, raise_together
from alexnet_dist.training.state import SavedState

QUICKSTART_FOLDER = Path("data/quickstart")


def check_data(settings: Settings, trains: bool = True) -> tuple[Images, Images] | None:
    """The training and validation images, as far as they are there before a run: those of the quick start may be drawn yet.

    Raises:
        UserError: no such folder, no train/ in it, an empty class, no validation images, or, where a net `trains` on them, a
            run folder among them or more classes than it tells apart.
    """
    data, table = settings.data, settings.table()
    images, count = None, quickstart.CLASSES
    if data.root is not None:
        root = Path(data.root)
        if trains and settings.run.dir:
            refuse_among_images("run.dir", settings.run.dir, root)
        if not is_packed(root):
            _check_root(root)
        images = open_root(root, data)
        count = len(images[0].classes)
    if trains and count > table.classes:
        fits = -(-count // table.towers) * table.towers
        raise UserError(
            f"{data.root or 'the quick start'} holds {count} classes and the model tells {table.classes} apart: "
            f"set model.layers.{table.layers[-1].name}.filters={fits}"
        )
    return images


def check_training_data(settings: Settings) -> None:
    """Raises UserError as `check_data`, and where the training images are fewer than a batch has."""
    if images := check_data(settings):
        check_fills_a_batch(images[0], settings.trainer.batch_size)


def _check_root(root: Path) -> None:
    if not root.is_dir():
        raise UserError(f"data.root={root} is not a folder: name the one that holds train/ and val/")
    if (root / "train").is_dir():
        return
    if form := form_of(root):
        raise UserError(
            f"data.root={root} holds images as {form}: pack them with `python -m alexnet_dist.prepare root={root} output=...`, "
            "and set data.root to what it makes"
        )
    near = [root.parent, *sorted(path for path in root.iterdir() if path.is_dir())]
    if with_train := [path for path in near if (path / "train").is_dir()]:
        raise UserError(f"data.root={root} has no folder train/: set data.root={with_train[0]}, which has one")


def open_images(settings: Settings, mesh: Mesh, display: Display, trains: bool = True) -> tuple[Images, Images]:
    """The training and validation images; rank 0 first draws those of the quick start where they are wanted.

    Raises:
        UserError: as `check_data`, or nowhere to draw images. BadImageError: a validation image's file does not begin as an image
            does.
    """
    data = settings.data
    root = Path(data.root) if data.root else QUICKSTART_FOLDER
    if data.root is None:
        if mesh.rank == 0:
            try:
                quickstart.make(root, lambda done, total: display.show("drawing images", done, total))
            except OSError as error:
                raise UserError(
                    f"the quick start's images cannot be written to {root} ({error.strerror}): "
                    "start in another folder, or set data.root"
                ) from None
        dist.barrier()
    train, validation = check_data(settings, trains) or open_root(root, data)
    _check_alike(root, train, validation, mesh)
    if data.root is not None and not is_packed(root):  # `prepare` has decoded what it packed
        check_headers(validation, mesh)
    if data.val_every is not None and not isinstance(validation, Subset):
        display.say(f"{root} has validation images, so data.val_every={data.val_every} sets no training image aside")
    display.say(f"{root}: {len(train)} training and {len(validation)} validation images in {len(train.classes)} classes")
    mesh.peers.rest()
    return train, validation


def _check_alike(root: Path, train: Images, validation: Images, mesh: Mesh) -> None:
    """Each process reads its own list of the images, and a sample is a number in it. Raises UserError where the lists differ."""
    own = f"{len(train)} training and {len(validation)} validation images", train.fingerprint(), validation.fingerprint()
    for rank, (counts, *sums) in enumerate(everyone := mesh.from_everyone(own)):
        if (counts, *sums) != everyone[0]:
            raise UserError(
                f"{root} is not the same for all processes: process 0 lists {everyone[0][0]} and process {rank} {counts}, "
                "not the same ones: copy it again to where it is not whole, and start when it no longer changes"
            )


def open_root(root: Path, data: DataSettings, validates: bool = True) -> tuple[Images, Images]:
    """The training and validation images of a folder, packed or of class folders; where it has none for validation, every
    `data.val_every`-th of each class is set aside. Raises UserError as `open_images` does; none for validation are needed where
    nothing `validates`."""
    packed = data.source == "packed" or (data.source != "imagefolder" and is_packed(root))
    train, validation = open_packed(root) if packed else open_folder(root)
    if len(validation) or (data.val_every is None and not validates):
        return train, validation
    if data.val_every is None:
        raise UserError(
            f"{root} has no validation images: give it a val/ beside train/ (and pack it again where it is packed), or set "
            "data.val_every=10 to set every tenth training image aside"
        )
    rest, aside = set_aside(train, data.val_every)
    if not len(aside):
        raise UserError(
            f"no class of {root} has {data.val_every} images, so data.val_every={data.val_every} sets none aside: set it lower"
        )
    return rest, aside


def check_same_data(checkpoint: Path, saved: SavedState, images: Images, allowed: Sequence[str]) -> None:
    """Raises UserError when a checkpoint's run was in the middle of other images than these, unless "data" is `allowed`; of other
    classes they may not be."""
    if not same_classes(saved, images):
        raise UserError(
            f"{checkpoint} tells {len(saved.classes)} classes apart and the images' {len(images.classes)} are others, or in "
            "another order: give the same data.root"
        )
    if saved.training_images not in (len(images), None) and "data" not in allowed:  # imported weights have seen none of these
        raise UserError(
            f"{checkpoint} was made with {saved.training_images} training images and these are {len(images)}: "
            "give the same data.root and data.val_every, or go on with resume_allow=[data]"
        )


def gather_statistics(
    settings: Settings, images: Images, mesh: Mesh, threads: int, display: Display, leave_out: Callable[[list[BadImage]], None]
) -> tuple[Statistics, list[BadImage]]:
    """The training images' mean and colour statistics, the same on every rank: a packed set's own, or computed by rank 0; and
    the bad images that were met, with data.on_bad=skip. Rank 0 calls `leave_out` with all of them at each. Raises BadImageError,
    on all ranks, without, and where that does."""
    if settings.data.root and isinstance(images, PackedImages):
        packed = read_statistics(settings.data.root)
        if packed.mean_image.shape[-1] == settings.data.size:
            return packed, []
    statistics = None
    found: list[BadImage] = []

    def leave_out_too(bad: BadImage) -> None:
        found.append(bad)
        leave_out(found)

    met = None
    mesh.peers.rest()
    if mesh.rank == 0:
        try:
            statistics = gather(
                images,
                size=settings.data.size,
                threads=settings.data.threads or threads,
                device=mesh.device,
                limit=settings.data.statistics_images,
                progress=lambda done, total: display.show("mean image", done, total),
                leave_out=leave_out_too if settings.data.on_bad == "skip" else None,
            )
        except BadImageError as error:
            met = error.bad
    raise_together(met, mesh)
    mesh.peers.rest()
    return mesh.from_first((statistics, found))


def training_feed(
    settings: Settings, images: Images, mesh: Mesh, threads: int, start: tuple[int, int], left_out: Sequence[int]
) -> TrainFeed:
    """This process's training batches from `start`, (epoch, batch in it), on, without the samples `left_out`.

    Raises:
        UserError: the images do not fill a batch.
    """
    part, parts = (mesh.share, mesh.layout.shares) if settings.data.share_decoding else (0, 1)
    return TrainFeed(
        images,
        seed=settings.seed,
        batch_size=settings.trainer.batch_size,
        replica=mesh.replica,
        replicas=mesh.layout.replicas,
        part=part,
        parts=parts,
        size=settings.data.size,
        crop=settings.table().input_size,
        mirror=settings.data.mirror,
        threads=settings.data.threads or threads,
        device=mesh.device,
        exchange=mesh.gather_rows if parts > 1 else None,
        start=start,
        left_out=left_out,
        decoder_options=decoder_options(settings.data),
    )


def validation_feed(settings: Settings, images: Images, mesh: Mesh, threads: int) -> ValidationFeed:
    """This process's part of one pass over the validation images; iterate over it as often as needed."""
    return ValidationFeed(
        images,
        batch_size=settings.evaluation.batch_size,
        replica=mesh.replica,
        replicas=mesh.layout.replicas,
        part=mesh.share,
        parts=mesh.layout.shares,
        size=settings.data.size,
        threads=settings.data.threads or threads,
        device=mesh.device,
        exchange=mesh.gather_rows if mesh.layout.shares > 1 else None,
        decoder_options=decoder_options(settings.data),
    )


def decoder_options(data: DataSettings) -> dict[str, float]:
    """What is set of how a GPU decodes, by DALI's names."""
    options = {
        "hw_decoder_load": data.hardware_decoder,
        "device_memory_padding": data.device_memory_padding,
        "host_memory_padding": data.host_memory_padding,
    }
    return {name: value for name, value in options.items() if value is not None}
