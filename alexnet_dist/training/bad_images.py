"""Images that cannot be read or decoded: the ranks agree on them, and the run ends on all alike or goes on without them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from alexnet_dist.data.bad_image import BadImage, BadImageError
from alexnet_dist.data.batch import Batch
from alexnet_dist.data.decode import READERS
from alexnet_dist.data.feed import TrainFeed
from alexnet_dist.data.images import Images
from alexnet_dist.data.odd_files import UnusableImageError, check_header
from alexnet_dist.files import whole_file
from alexnet_dist.parallel.mesh import Mesh
from alexnet_dist.settings import Settings
from alexnet_dist.text import one_cell
from alexnet_dist.tracking.display import Display
from alexnet_dist.tracking.run_folder import BAD_IMAGES, RunFolder
from alexnet_dist.training.state import TrainingState


def check_headers(images: Images, mesh: Mesh) -> None:
    """See whether the images' files begin as images do; every rank looks at its part of them. Raises BadImageError on all."""
    own = range(mesh.rank, len(images), mesh.layout.processes)

    def check(first: int) -> None:
        for index in own[first::READERS]:
            try:
                check_header(images.name(index))
            except UnusableImageError as reason:
                raise BadImageError(BadImage.undecodable(index, images.name(index), str(reason))) from None

    bad = None
    with ThreadPoolExecutor(READERS) as readers:
        try:
            list(readers.map(check, range(READERS)))
        except BadImageError as error:
            bad = error.bad
    raise_together(bad, mesh)


def raise_together(bad: BadImage | None, mesh: Mesh) -> None:
    """Every rank takes part. Raises BadImageError on all, of the same image, where one has met a bad image."""
    if met := next(filter(None, mesh.from_everyone(bad)), None):
        raise BadImageError(met)


def leave_out(
    found: Sequence[BadImage], state: TrainingState, settings: Settings, folder: RunFolder, mesh: Mesh, display: Display
) -> None:
    """Leave training images out from now on, on all ranks alike; the first names each once in bad_images.tsv.

    Raises BadImageError where they are more than data.max_bad allows.
    """
    new = sorted({bad.sample: bad for bad in found if bad.sample not in state.left_out}.items())
    table = folder.path / BAD_IMAGES
    if mesh.rank == 0 and new:
        try:
            named = table.read_text("utf-8").splitlines() if table.exists() else ["file\treason"]
            lines = dict.fromkeys([*named, *(f"{one_cell(bad.name)}\t{one_cell(bad.reason)}" for _, bad in new)])
            with whole_file(table) as file:
                file.write("".join(f"{line}\n" for line in lines).encode())
        except OSError as error:
            display.say(f"warning: {table} cannot be written ({error.strerror}) and lacks what follows")
        for _, bad in new:
            display.say(f"warning: {bad.name} is bad ({bad.reason}) and left out from now on: see {table}")
    count, allowed = len(state.left_out) + len(new), settings.data.max_bad * state.images_per_epoch
    if count > allowed:
        sentence = (
            f"{count} of {state.images_per_epoch} training images are bad, more than data.max_bad={settings.data.max_bad:g} "
            f"allows: replace those that {table} names, or allow more"
        )
        raise BadImageError(BadImage(-1, str(table), "too many", sentence))
    state.left_out = tuple(sorted((*state.left_out, *(sample for sample, _ in new))))


class GoodBatches:
    """The training batches from where the state stands, without the images that the state leaves out.

    `open_feed` opens the feed at (epoch, batch in it) without these samples.
    """

    def __init__(
        self,
        open_feed: Callable[[tuple[int, int], Sequence[int]], TrainFeed],
        state: TrainingState,
        settings: Settings,
        folder: RunFolder,
        mesh: Mesh,
        display: Display,
    ) -> None:
        self._open = open_feed
        self._state, self._settings, self._folder, self._mesh, self._display = state, settings, folder, mesh, display
        self._feed = self._opened()

    def batches_until(self, epochs: int) -> int:
        """How many there are from where the state stands to the end of so many epochs."""
        state = self._state
        return (epochs - state.epoch) * self._feed.batches_per_epoch - state.images // self._settings.trainer.batch_size

    def __next__(self) -> Batch:
        return next(self._feed)

    def met_bad(self) -> bool:
        """Whether this process has met a bad image in one of the next batches."""
        return self._feed.bad_image() is not None

    def mend(self) -> None:
        """Where some rank has met a bad image in the next batches, begin them again without it; every rank takes part.

        Raises BadImageError, on all ranks alike, where the run is to stop at it or there are too many.
        """
        while found := [bad for bad in self._mesh.from_everyone(self._feed.bad_image()) if bad]:
            if self._settings.data.on_bad == "stop":
                own = self._feed.bad_image()
                or_skip = own and replace(own, sentence=f"{own.sentence}, or leave it out with data.on_bad=skip")
                raise_together(or_skip, self._mesh)
            leave_out(found, self._state, self._settings, self._folder, self._mesh, self._display)
            self._feed.close()
            self._feed = self._opened()

    def __enter__(self) -> "GoodBatches":
        return self

    def __exit__(self, *_: object) -> None:
        self._feed.close()

    def _opened(self) -> TrainFeed:
        place = self._state.epoch, self._state.images // self._settings.trainer.batch_size
        return self._open(place, self._state.left_out)
