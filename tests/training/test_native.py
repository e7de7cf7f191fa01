"""What is compiled, and what overlaps, changes how long a run takes and not what it learns."""

from pathlib import Path

import pytest

from tests.commands import read_metrics, read_tensors, train

# So small a rate that a last bit stays a last bit: at a training rate it grows until two runs of any two layouts part.
SETTINGS = (
    *("data.size=64", "data.statistics_images=16", "trainer.batch_size=16", "trainer.max_steps=8", "trainer.log_every=2"),
    *("optimizer.lr=1e-6", "evaluation.views=1"),
)


@pytest.fixture(scope="module")
def compiled(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiled")
    train(*SETTINGS, f"data.root={few_images}", "run.dir=run", "trainer.native=on", cwd=folder)
    return folder / "run"


@pytest.mark.slow
def test_nothing_compiled_gives_the_same_run_within_rounding(compiled: Path, few_images: Path, tmp_path: Path) -> None:
    train(*SETTINGS, f"data.root={few_images}", "run.dir=run", "trainer.native=off", cwd=tmp_path)
    ours, theirs = (
        [record["loss"] for record in read_metrics(run) if record["kind"] == "train"] for run in (compiled, tmp_path / "run")
    )
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert len(ours) == 4
    expected = read_tensors(tmp_path / "run")
    for name, tensor in read_tensors(compiled).items():
        assert (tensor - expected[name]).norm() <= 1e-4 * expected[name].norm(), name


@pytest.mark.slow
def test_waiting_for_what_travels_gives_the_same_bits(compiled: Path, few_images: Path, tmp_path: Path) -> None:
    train(*SETTINGS, f"data.root={few_images}", "run.dir=run", "parallel.overlap=false", cwd=tmp_path)
    expected = read_tensors(tmp_path / "run")
    for name, tensor in read_tensors(compiled).items():
        assert (tensor == expected[name]).all(), name


@pytest.mark.slow
def test_maps_that_travel_as_bfloat16_are_half_the_bytes(compiled: Path, few_images: Path, tmp_path: Path) -> None:
    train(*SETTINGS, f"data.root={few_images}", "run.dir=run", "parallel.wire=bf16", cwd=tmp_path)
    ours, theirs = (
        [record for record in read_metrics(run) if record["kind"] == "train"] for run in (tmp_path / "run", compiled)
    )
    assert [record["crossing_bytes"] * 2 for record in ours] == [record["crossing_bytes"] for record in theirs]
    # bfloat16 keeps eight bits of a number.
    assert [record["loss"] for record in ours] == pytest.approx([record["loss"] for record in theirs], rel=1e-2)
