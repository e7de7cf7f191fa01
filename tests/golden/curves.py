"""The loss of the first 20 steps of two runs, kept as files: what is not meant to change the mathematics leaves them as they are.

    python -m tests.golden.curves

writes them anew, after a change that is. `paper` is the paper's net and training on small images, at ten times its rate so that
20 steps move the loss.
"""

import tempfile
from pathlib import Path

from alexnet_dist.data import quickstart
from tests.commands import read_metrics, train

HERE = Path(__file__).parent
SMALL = ("data.size=72", "model.input=67", "model.layers.fc6.filters=256", "model.layers.fc7.filters=256")
RUNS = {
    "quick_start": (),
    "paper": ("experiment=paper", *SMALL, "model.layers.fc8.filters=8", "trainer.batch_size=32", "optimizer.lr=0.1"),
}
STEPS = ("trainer.max_steps=20", "trainer.log_every=1", "trainer.validate_every=1000", "evaluation.views=1", "device=cpu")


def train_for(name: str, images: Path, folder: Path) -> list[float]:
    """The losses of a run on the quick start's images."""
    train(*STEPS, *RUNS[name], f"data.root={images}", "run.dir=run", cwd=folder)
    return [record["loss"] for record in read_metrics(folder / "run") if record["kind"] == "train"]


def kept(name: str) -> list[float]:
    return [float(line) for line in (HERE / f"{name}.txt").read_text().split()]


def main() -> None:
    for name in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            images = Path(folder) / "images"
            quickstart.make(images, lambda done, total: None)
            losses = train_for(name, images, Path(folder))
        (HERE / f"{name}.txt").write_text("".join(f"{loss}\n" for loss in losses))


if __name__ == "__main__":
    main()
