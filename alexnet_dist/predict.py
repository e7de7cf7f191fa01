"""What a checkpoint, or several averaged, sees in image files: the five best labels of each.

python -m alexnet_dist.predict checkpoint=runs/x images=[a.jpg,b.png]
python -m alexnet_dist.predict checkpoint=runs/x images=photos json=true
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic.dataclasses import dataclass
from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alexnet_dist.data.odd_files import UnusableImageError
from alexnet_dist.data.pictures import find_pictures, read_picture
from alexnet_dist.errors import USER_ERROR_STATUS
from alexnet_dist.fields import FilePath, check, named, strict
from alexnet_dist.launching.commands import command
from alexnet_dist.parallel.process import pick_device, set_precision
from alexnet_dist.results.trained import A_CHECKPOINT, Trained, check_fits, load_trained, open_trained
from alexnet_dist.results.validation import Voter
from alexnet_dist.text import printable
from alexnet_dist.tracking.metrics import finite

BEST = 5
BATCH = 32
BAR_WIDTH = 24


@dataclass(frozen=True, config=strict)
class PredictSettings:
    """What conf/predict.yaml may say."""

    checkpoint: FilePath | list[FilePath] | None
    images: FilePath | list[FilePath] | None
    views: Literal[1, 10]
    json: bool
    device: Literal["auto", "cpu", "cuda"]


def run(config: dict[str, Any]) -> None:
    """Print what is seen in each image. A file that holds no image is named on standard error, and the status is then 2."""
    wanted = check(PredictSettings, config)
    nets = [open_trained(where) for where in named(wanted.checkpoint, "checkpoint", A_CHECKPOINT)]
    for other in nets[1:]:
        check_fits(nets[0], other)
    files = find_pictures(named(wanted.images, "images", "image files, folders or patterns"))
    device = pick_device(wanted.device, local_rank=0)
    voters = []
    for trained in nets:
        net, preprocess = load_trained(trained, device)
        voters.append(Voter(net, preprocess.views(wanted.views), set_precision("fp32", device)))

    console = Console(highlight=False)
    unusable = 0
    seen = []
    for file, answer in look(voters, files, nets[0].settings.data.size, device):
        if isinstance(answer, UnusableImageError):
            unusable += 1
            print(f"error: {printable(str(file))}: {answer}", file=sys.stderr, flush=True)
        elif wanted.json:
            seen.append({"image": printable(str(file)), "best": best_labels(nets[0], answer)})
        else:
            show(console, file, best_labels(nets[0], answer))
    if wanted.json:
        print(json.dumps(finite(seen), indent=1, ensure_ascii=False))
    if unusable:
        sys.exit(USER_ERROR_STATUS)


def look(
    voters: Sequence[Voter], files: Sequence[Path], size: int, device: torch.device
) -> Iterator[tuple[Path, torch.Tensor | UnusableImageError]]:
    """For each file, in order, the mean of the voters' probabilities, float32 [outputs] on the CPU, or why it has none."""
    for first in range(0, len(files), BATCH):
        part = files[first : first + BATCH]
        answers: dict[int, torch.Tensor | UnusableImageError] = {}
        pictures: dict[int, torch.Tensor] = {}
        for position, file in enumerate(part):
            try:
                pictures[position] = read_picture(file, size)
            except UnusableImageError as error:
                answers[position] = error
        if pictures:
            pixels = torch.stack(list(pictures.values())).to(device)
            with torch.inference_mode():
                mean = torch.stack([voter.probabilities(pixels)[0] for voter in voters]).mean(dim=0).cpu()
            answers.update(zip(pictures, mean, strict=True))
        yield from ((file, answers[position]) for position, file in enumerate(part))


def best_labels(trained: Trained, probabilities: torch.Tensor) -> list[dict[str, Any]]:
    """The five most probable classes, the best first: label, id, words and probability of each."""
    best = probabilities[: len(trained.classes)].sort(descending=True, stable=True)
    return [
        {"label": label, "id": printable(trained.class_ids[label]), "class": trained.classes[label], "probability": probability}
        for probability, label in zip(best.values[:BEST].tolist(), best.indices[:BEST].tolist(), strict=True)
    ]


def show(console: Console, file: Path, best: Sequence[dict[str, Any]]) -> None:
    """The image's name and a line with a bar for each label."""
    lines = Table.grid(padding=(0, 1))
    lines.add_column(justify="right")
    lines.add_column(width=BAR_WIDTH)
    lines.add_column(overflow="ellipsis", no_wrap=True)
    for entry in best:
        name = entry["class"] if entry["id"] == entry["class"] else f"{entry['class']} ({entry['id']})"
        length = max(0, entry["probability"])  # 0 where a net that has diverged gives no number
        lines.add_row(f"{entry['probability']:7.2%}", Bar(1, 0, length, width=BAR_WIDTH, color="cyan"), Text(name))
    console.print(printable(str(file)), style="bold", markup=False, soft_wrap=True)
    console.print(lines)


def main() -> None:
    command("predict", run)


if __name__ == "__main__":
    main()
