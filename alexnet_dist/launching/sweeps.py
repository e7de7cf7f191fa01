"""The jobs of a sweep: where each is kept, what it is called, how it ends, and what Hydra's sweeper is told of it."""

import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from alexnet_dist.errors import UserError, tell
from alexnet_dist.fields import check
from alexnet_dist.launching.outer import submitit_may_queue_again
from alexnet_dist.launching.overrides import swept_overrides
from alexnet_dist.launching.sentences import errors_as_sentences
from alexnet_dist.launching.side_by_side import SideBySide, visible_gpus
from alexnet_dist.launching.wandb_account import unless_set
from alexnet_dist.settings import Settings
from alexnet_dist.tracking.metrics import last_validation
from alexnet_dist.tracking.run_folder import read_config, read_outcome
from alexnet_dist.training.resuming import what_differs

# Groups of settings with which a job may go on in other words.
_MAY_DIFFER = ("device", "parallel", "checkpoint")


# Sweeper and launcher that ask nothing of a job.
_HYDRA_S_OWN = "hydra._internal.core_plugins."


class JobFailed(Exception):  # noqa: N818 - as RunFailed
    """What Hydra's launchers and sweepers take for a job that has failed."""


class Sweep:
    """The jobs of a sweep of `module` that were begun from here: how each that has ended did, by number, and the objectives of
    those that are done."""

    def __init__(self, module: str) -> None:
        self.statuses: dict[int, int] = {}
        self._objectives: dict[int, float] = {}
        self._module = module
        self._names: dict[int, str] = {}
        self._folders: dict[int, Path] = {}
        self._figure = ""
        self._beside: SideBySide | None = None

    def run(self, read: Callable[[], dict[str, Any]], start: Callable[[dict[str, Any]], int]) -> "float | Awaited | None":
        """Run the job that Hydra has composed and `read` returns, unless it is done already; its objective. `start` returns its
        status. With `parallel.jobs` it is begun when there is room, and who wants the objective waits for it.

        Raises:
            JobFailed: it has failed, has said why, and a plugin of Hydra's is to know.
            SystemExit: a signal has ended it, or those beside which it would begin.
        """
        if self._beside:
            self._beside.wait_for_room()
        number = HydraConfig.get().job.num
        self._names[number] = " ".join([str(number), *swept_overrides(list(HydraConfig.get().overrides.task))])
        heard = signal.getsignal(signal.SIGUSR2)
        try:
            with errors_as_sentences():
                status = self._begin(number, read(), start)
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 1
        if status is None:
            return Awaited(self, number)
        self._note(number, status)
        if status in (128 + signal.SIGUSR2, 128 + signal.SIGTERM) and callable(heard) and submitit_may_queue_again():
            # SLURM ends a job that is queued again, and with it the very process that asks for that, which inherits this.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            heard(signal.SIGUSR2, None)  # submitit's: it queues the job again and ends this process
        if status > 128:
            sys.exit(status)
        around = (HydraConfig.get().sweeper["_target_"], HydraConfig.get().launcher["_target_"])
        if status and all(plugin.startswith(_HYDRA_S_OWN) for plugin in around):
            return None  # it is counted here, and Hydra would say it once more
        return self.objective(number)

    def _begin(self, number: int, config: dict[str, Any], start: Callable[[dict[str, Any]], int]) -> int | None:
        """The job's status; None where it has only begun."""
        if "run" not in config:  # of another command than train
            return start(config)
        folder = self._folders[number] = _place(config, self._names[number], number)
        at_once = config["parallel"].pop("jobs")
        self._figure = config["tracking"]["objective"]
        if done_before(folder, config):
            tell(f"job {self._names[number]} is done already: {folder}")
            return 0
        if at_once == 1:
            return start(config)
        if not HydraConfig.get().launcher["_target_"].startswith(_HYDRA_S_OWN):
            raise UserError(f"parallel.jobs={at_once} is for jobs that are started here, not by another launcher: leave it out")
        if not self._beside:
            self._beside = SideBySide(self._module, at_once, [] if config["device"] == "cpu" else visible_gpus(), self._note)
        self._beside.start(number, config, Path(f"{folder}.log"))
        tell(f"job {self._names[number]} has begun: what it says is in {folder}.log")
        return None

    def _note(self, number: int, status: int) -> None:
        self.statuses[number] = status
        if not status and number in self._folders:
            objective = (last_validation(self._folders[number]) or {}).get(self._figure)
            self._objectives[number] = math.inf if objective is None else objective  # JSON has no word for it, or it was lost

    def objective(self, number: int) -> float | None:
        """That of a job that has ended, None where it has none. Raises JobFailed."""
        if self.statuses[number]:
            raise JobFailed(f"job {number} failed with status {self.statuses[number]}")
        return self._objectives.get(number)

    def wait(self, number: int | None = None) -> None:
        """Wait for the end of a job that was begun beside others, or of all."""
        if self._beside:
            self._beside.wait(number)

    def status(self) -> int:
        """That of the sweep: 0 where all jobs are done, 1 where some failed, 128 and its number where a signal ended one."""
        worst = max(self.statuses.values(), default=0)
        return worst if worst > 128 else min(worst, 1)

    def summary(self) -> str:
        """How many jobs are done, which failed, and which is the best, in one line."""
        failed, stopped = (
            [self._names[number] for number, status in sorted(self.statuses.items()) if status and (status > 128) == by_signal]
            for by_signal in (False, True)
        )
        line = f"{len(self.statuses) - len(failed) - len(stopped)} of {len(self.statuses)} jobs done"
        for names, how in ((failed, "failed"), (stopped, "stopped")):
            line += f", {len(names)} {how}: {'; '.join(names)}" if names else ""
        if self._objectives:
            best = min(self._objectives, key=lambda number: self._objectives[number])
            line += f"; least {self._figure} {self._objectives[best]:.4f}: {self._names[best]}"
        return line


class Awaited:
    """The objective of a job that may not have ended: a sweeper that asks for the number waits for it."""

    def __init__(self, sweep: Sweep, number: int) -> None:
        self._sweep, self._number = sweep, number

    def __float__(self) -> float:
        self._sweep.wait(self._number)
        objective = self._sweep.objective(self._number)
        assert objective is not None
        return objective


def _place(config: dict[str, Any], name: str, number: int) -> Path:
    """The folder of a job; it, the W&B group and the job's name are set in the configuration."""
    settings = check(Settings, config)
    sweep = Path(settings.run.dir or HydraConfig.get().sweep.dir)
    config["run"]["dir"] = str(sweep / str(number))
    if settings.tracking.kind == "wandb":
        config["tracking"]["group"] = settings.tracking.group or unless_set("WANDB_RUN_GROUP", sweep.name)
        config["tracking"]["name"] = settings.tracking.name or unless_set("WANDB_NAME", name[:100])
    return sweep / str(number)


def done_before(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a complete run of this job is in its folder. Raises UserError where one of another job is, complete or not, or
    something else."""
    before = read_config(folder)
    if before is None:
        return False
    for key, (was, now) in what_differs(before, config).items():
        if key.partition(".")[0] not in _MAY_DIFFER:
            raise UserError(
                f"{folder} holds a job with {key}={was}, and this one says {key}={now}: start the sweep with the words that it "
                "was begun with, or give another run.dir"
            )
    return read_outcome(folder) == "done"
