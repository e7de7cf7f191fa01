"""Faults planted in a copy of the project, one after another, and what the proof that should see each says of it.

    python -m tests.proofs.plants              # all
    python -m tests.proofs.plants hash slope   # those with one of these words in their names

The status is 1 where a proof passes in spite of its fault.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
KERNELS = "alexnet_dist/kernels/cuda"
INTERPRETED = "tests/kernels/interpreted.py"
WHOLE_STEP = "tests/proofs/test_whole_step.py"


class Plant(NamedTuple):
    """In `file` the one place that says `right` says `wrong`; `proof` is what pytest is given, and must fail."""

    fault: str
    file: str
    right: str
    wrong: str
    proof: tuple[str, ...]


PLANTS = (
    Plant("a norm's window that is too short", f"{KERNELS}/parts.py", "SIZE // 2 + 1)", "SIZE // 2)",
          (INTERPRETED, "-k", "follows_a_convolution and paper")),
    Plant("relu's slope 1 at zero", f"{KERNELS}/parts.py", "a > 0, 1.0", "a >= 0, 1.0",
          (INTERPRETED, "-k", "activation_and_dropout and relu")),
    Plant("tanh's slope without the square", f"{KERNELS}/parts.py", "1 - a * a", "1 - a",
          (INTERPRETED, "-k", "activation_and_dropout and tanh")),
    Plant("a wrong constant in the masks' hash", f"{KERNELS}/parts.py", "0xD35A2D97", "0xD35A2D95",
          (INTERPRETED, "-k", "masks")),
    Plant("the gradient to a pool's wrong pixel", f"{KERNELS}/tail.py", "chosen == in_row * KERNEL + in_column",
          "chosen == in_column * KERNEL + in_row", (INTERPRETED, "-k", "follows_a_convolution and paper")),
    Plant("pixels beyond the map's edge", f"{KERNELS}/tail.py", "(row < HEIGHT) & (column < WIDTH)", "(row < HEIGHT)",
          (INTERPRETED, "-k", "follows_a_convolution and ceil")),
    Plant("one pass of the bias's gradient", f"{KERNELS}/tail.py", "bias_gradient += g", "bias_gradient = g",
          (INTERPRETED, "-k", "follows_a_convolution and paper")),
    Plant("the spatial norm's gradient with the wrong sign", f"{KERNELS}/spatial_norm.py", "- 2 * ALPHA * BETA * x * total",
          "+ 2 * ALPHA * BETA * x * total",
          (INTERPRETED, "-k", "spatial_norm")),
    Plant("an update that moves in spite of a NaN", f"{KERNELS}/update.py", "tl.load(finite_ptr).to(tl.int32) != 0,",
          "tl.load(finite_ptr).to(tl.int32) >= 0,",
          (INTERPRETED, "-k", "update")),
    Plant("a crop mirrored as the mean image is", f"{KERNELS}/preprocess.py", "load(mirror_ptr", "load(mean_mirror_ptr",
          (INTERPRETED, "-k", "preprocessing")),
    Plant("a mean image mirrored as the crop is", f"{KERNELS}/preprocess.py", "load(mean_mirror_ptr", "load(mirror_ptr",
          (INTERPRETED, "-k", "preprocessing")),
    Plant("a label one class off in the loss's gradient", f"{KERNELS}/loss.py", "column + i * CLASSES == label",
          "column + i * CLASSES == label + 1", (INTERPRETED, "-k", "loss")),
    Plant("a kernel of so large a tile that it spills", "tests/kernels/compiled.py", '"P": 16, "C": 64', '"P": 128, "C": 64',
          ("tests/kernels/test_triton.py", "-k", "compile")),
    Plant("a read of the loss on the host", "alexnet_dist/training/step.py", "finite = mean < torch.inf",
          "finite = mean < torch.inf if mean.item() < 1e9 else mean > 0", (WHOLE_STEP, "-k", "stays_on_its_device and towers")),
    Plant("a tensor of the host's in the update", "alexnet_dist/training/step.py", "device=mesh.device)\n        self._good",
          "device='cpu')\n        self._good", (WHOLE_STEP, "-k", "stays_on_its_device and towers")),
    Plant("a tensor of the host's in the forward pass", "alexnet_dist/kernels/steps.py", "return y if key",
          "return y + torch.ones(1, device='cpu') if key", (WHOLE_STEP, "-k", "fake")),
    Plant("a convolution's tail in several launches", "alexnet_dist/kernels/steps.py", "step.relu_last)[0]",
          "step.relu_last)[0] + 0",
          (WHOLE_STEP, "-k", "ninety")),
    Plant("the exchange of crops begun by the thread that decodes", "alexnet_dist/data/feed.py",
          "Background(on_device(self._batches(decoded), device), ahead=AHEAD, name=\"train feed\")\n"
          "        self._exchanged = Exchanged(self._background, exchange, device)",
          "Background(Exchanged(on_device(self._batches(decoded), device), exchange, device), ahead=AHEAD, name=\"train feed\")\n"
          "        self._exchanged = self._background",
          ("tests/distributed/test_order.py", "-k", "begins_all_messages and 2")),
    Plant("another order of addition over the slices", "alexnet_dist/training/gradients.py", "while place & 1:", "while sums:",
          ("tests/training/test_gradients.py",)),
    Plant("an argument that DALI's resize does not have", "alexnet_dist/data/graph.py", "roi_start=begin", "roi_begin=begin",
          ("tests/data/test_graph.py",)),
)  # fmt: skip


def tried(plant: Plant, copy: Path) -> str | None:
    """What the proof says of the fault; None where it passes."""
    file = copy / plant.file
    text = file.read_text()
    if text.count(plant.right) != 1:
        raise SystemExit(f"{plant.file} says {text.count(plant.right)} times and not once: {plant.right}")
    file.write_text(text.replace(plant.right, plant.wrong))
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "", *plant.proof]
    environment = {**os.environ, "TRITON_INTERPRET": str(int(INTERPRETED in plant.proof))}
    done = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    file.write_text(text)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{plant.fault}: pytest ended with {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
    said = re.findall(r"^E +(\S.*)$", done.stdout, re.MULTILINE)
    return said[0] if done.returncode else None


def main() -> int:
    wanted = [plant for plant in PLANTS if not sys.argv[1:] or any(word in plant.fault for word in sys.argv[1:])]
    passed = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("alexnet_dist", "conf", "tests", "docs", "slurm"):
            shutil.copytree(ROOT / name, copy / name)
        for name in ("pyproject.toml", "setup.cfg", "README.md"):
            shutil.copy(ROOT / name, copy)
        for plant in wanted:
            said = tried(plant, copy)
            passed += said is None
            print(f"{plant.fault} ({plant.file})\n    {said or 'the proof passes: ' + ' '.join(plant.proof)}", flush=True)
    return bool(passed)


if __name__ == "__main__":
    sys.exit(main())
