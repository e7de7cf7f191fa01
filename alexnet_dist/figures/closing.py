"""What a run leaves to look at when it ends: figures/ and report.html, as the `report` command makes them."""

from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_dist.settings import OtherImages, Settings
from alexnet_dist.text import as_word
from alexnet_dist.tracking.display import Display

if TYPE_CHECKING:
    from alexnet_dist.tracking.wandb_run import WandbRun

_MOST_IMAGES = 5000  # taken while the run's other processes wait; conf/report.yaml says the same


def leave_report(run_dir: Path, settings: Settings, wandb_run: "WandbRun | None", display: Display) -> None:
    """Draw the figures and make the page of a complete run, and hand the figures to W&B. Where that fails a line says why."""
    try:
        # Not at the top: what draws is loaded by the process that draws, and when it does.
        from alexnet_dist.figures.examples import ExampleOptions
        from alexnet_dist.figures.run_report import report_of_run

        options = ExampleOptions(_MOST_IMAGES, _MOST_IMAGES, settings.evaluation.batch_size, settings.device, OtherImages())
        page = report_of_run(run_dir, options, display)
        if wandb_run:
            from alexnet_dist.figures.wandb_media import hand_over

            hand_over(run_dir, wandb_run, settings.tracking.artifacts)
    except Exception as error:  # whatever it is, the run is complete and its record is whole
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        display.say(f"warning: no report could be made ({reason}); try again with: alexnet-dist report {as_word('run', run_dir)}")
        return
    display.say(f"report: {page}")
