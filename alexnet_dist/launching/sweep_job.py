"""One job of a sweep, for a job array in which each task runs one: the overrides that `-m` would give to the job of a number.

python -m alexnet_dist.launching.sweep_job 2 optimizer.lr=0.005,0.01,0.02 seed=0
    prints optimizer.lr=0.02 and seed=0, one a line

With run.dir, that of the sweep, it prints the job's folder there and its W&B group too, unless that folder holds another job.
"""

import json
import sys
from pathlib import Path

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from alexnet_dist.errors import UserError
from alexnet_dist.launching.commands import CONFIGURATION, compose
from alexnet_dist.launching.overrides import accepted
from alexnet_dist.launching.sentences import errors_as_sentences
from alexnet_dist.text import hydra_value


def sweep_jobs(words: list[str]) -> list[list[str]]:
    """The overrides of every job of a sweep, in the order in which Hydra's own sweeper runs them.

    Raises:
        HydraException: a word is no override. UserError: there is none.
    """
    with hydra.initialize_config_module(CONFIGURATION, version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        batches = BasicSweeper.split_arguments(parser.parse_overrides(words), max_batch_size=None)
    if jobs := [job for batch in batches for job in batch]:
        return jobs
    raise UserError("the sweep has no job: a glob() in it finds none of the program's own files; name choices, as in model=a,b")


def main() -> None:
    with errors_as_sentences():
        if len(sys.argv) < 2 or not sys.argv[1].isdecimal():
            raise UserError("give the number of a job and then the sweep: 2 optimizer.lr=0.005,0.01,0.02")
        number, jobs = int(sys.argv[1]), sweep_jobs(accepted(sys.argv[2:]))
        if number >= len(jobs):
            last = len(jobs) - 1
            raise UserError(f"the sweep has no job {number}, its jobs are 0 to {last}: submit it with --array=0-{last}")
        words = jobs[number]
        folders = [word for word in OverridesParser.create().parse_overrides(words) if word.key_or_group == "run.dir"]
        if folders:
            from alexnet_dist.launching.sweeps import done_before  # not at the top: it imports torch

            sweep = Path(str(folders[-1].value()))
            done_before(sweep / str(number), compose("train", words))
            group = json.dumps(sweep.name, ensure_ascii=False)  # a text also where it is a number
            words = [f"++tracking.group={group}", *words, f"run.dir={hydra_value(str(sweep / str(number)))}"]
        print(*words, sep="\n")


if __name__ == "__main__":
    main()
