"""docs/own.md: the files that it shows are a net, a data set and an experiment that compose as it says."""

import re
from pathlib import Path

from alexnet_dist.checks import check_settings
from alexnet_dist.launching.commands import compose
from alexnet_dist.launching.overrides import accepted
from tests.forked import run_forked

PAGE = Path(__file__).parents[2] / "docs" / "own.md"


def test_the_files_of_the_page_compose(tmp_path: Path) -> None:
    shown = re.findall(r"^## [^\n]*`mine/(\w+/plants\.yaml)`\n.*?```yaml\n(.*?)```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert [name.split("/")[0] for name, _ in shown] == ["data", "model", "experiment"]
    for name, text in shown:
        (tmp_path / "mine" / name).parent.mkdir(parents=True)
        (tmp_path / "mine" / name).write_text(text)
    settings = check_settings(compose("train", accepted(["--config-dir", str(tmp_path / "mine"), "experiment=plants"])))
    assert (settings.data.root, settings.data.val_every, settings.data.colour) == ("/data/plants", 10, True)
    assert (settings.optimizer.lr, settings.schedule.at_epochs, settings.table().classes) == (0.005, (20, 26), 12)
    done = run_forked("model", "--config-dir", "mine", "model=plants", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fc5" in done.stdout
