"""What the commands share: Hydra outside, the launcher inside.

The process that a person starts composes the configuration and starts the workers with it. Under an outer torchrun or srun
every rank composes the same configuration from the same words, without letting Hydra touch the disk.
"""

import gc
import importlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]

from alexnet_dist.dali import dali_package
from alexnet_dist.errors import USER_ERROR_STATUS, RunFailed, UserError, leave_out_decoder_lines, tell
from alexnet_dist.fields import names_of
from alexnet_dist.files import make_new_folder, remove_folder
from alexnet_dist.launching.folders import own_temporary_folder, settle_folders
from alexnet_dist.launching.outer import adopt_srun, check_alone, check_meeting_place, outer_launcher
from alexnet_dist.launching.overrides import accepted, overrides_under, with_sweep_folder
from alexnet_dist.launching.sentences import errors_as_sentences
from alexnet_dist.tracking.run_folder import RunFolder, read_outcome

CONFIGURATION = "alexnet_dist.conf"
# For a sweep's folder: made when Hydra first asks for its name, and by no two sweeps of the same second.
_sweep_folders: list[Path] = []


def _new_folder(wanted: str) -> str:
    _sweep_folders.append(make_new_folder(Path(wanted)))
    return str(_sweep_folders[-1])


OmegaConf.register_new_resolver("new_folder", _new_folder, use_cache=True, replace=True)


def distributed_command(module: str, config_name: str) -> None:
    """Run `module`.run(config) in processes of its own, or in this one where torchrun or srun started several.

    `module`.prepare_start(config), before any process is started, checks the composed configuration and returns how many to start
    and the configuration for them.
    """
    with errors_as_sentences():
        launcher = outer_launcher()
        if launcher == "srun":
            os.environ.update(adopt_srun())
        _prepare_process()
        sys.argv[1:] = accepted(sys.argv[1:])
        if launcher is None:
            from alexnet_dist.launching.processes import stand_by  # here: `command` needs no torch to start

            stand_by()
            _compose_outside(module, config_name)
        else:
            check_meeting_place()
            words = overrides_under(launcher)
            worker(module, _noted(compose(config_name, words), words))


def command(config_name: str, run: Callable[[dict[str, Any]], None]) -> None:
    """Run a command of one process on its composed configuration. SIGTERM ends it in order, as Ctrl-C does."""
    with errors_as_sentences():
        check_alone()
        _prepare_process()
        signal.signal(signal.SIGTERM, _stop)
        sys.argv[1:] = accepted(sys.argv[1:])
        _with_hydra(config_name, errors_as_sentences()(lambda composed: run(_read(composed))))


def _prepare_process() -> None:
    """What comes before anything is composed."""
    gc.freeze()  # what has been imported is no garbage, and to look through it at the end takes half a second
    gc.enable()
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # as it was while libraries were imported
        signal.signal(signal.SIGINT, signal.default_int_handler)
    settle_folders()
    dali_package()  # where there are two, nothing else is to be trusted


def _stop(signum: int, _: object) -> NoReturn:
    with suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"ended by {signal.Signals(signum).name}\n".encode())
    raise SystemExit(128 + signum)  # which nothing takes for a failure of its own


def worker(module: str, config: dict[str, Any]) -> None:
    """One process of a command; it ends here, with its status, if something goes wrong."""
    # Until something handles them: a Ctrl-C would otherwise be heeded only when the main thread no longer waits for a peer.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    leave_out_decoder_lines()
    try:
        with errors_as_sentences(), own_temporary_folder():
            importlib.import_module(module).run(config)
    except SystemExit as leaving:
        sys.stdout.flush()
        # Not sys.exit: threads of libraries that wait for a lost peer would keep the process.
        os._exit(leaving.code if isinstance(leaving.code, int) else 1)


def compose(config_name: str, overrides: list[str]) -> dict[str, Any]:
    """The composed configuration as plain containers; nothing is written."""
    GlobalHydra.instance().clear()
    with _suggesting(config_name), hydra.initialize_config_module(CONFIGURATION, version_base="1.3"):
        return _plain(hydra.compose(config_name, overrides=overrides))


@contextmanager
def _suggesting(config_name: str) -> Iterator[None]:
    """Raises UserError for an override of what is no setting, with the setting that may have been meant, and for a group that is
    given no choice."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"a file of the configuration is not UTF-8 ({error.reason}): save it so") from None
    except ValueError as error:
        if not str(error).startswith("Config group override must be"):
            raise
        raise UserError(
            "a group of settings, such as model or data, is given null or a number: give it one of its choices, as in "
            "model=paper, or leave it out"
        ) from None
    except YAMLError as error:
        where, what = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        place = f"{where.name}, line {where.line + 1}" if where else "a file of the configuration"
        raise UserError(f"{place}: {what}: mend it there") from None
    except ConfigCompositionException as error:
        named = re.match(r"Could not override '([^'@]+)'", str(error))
        if not named:
            raise
        names = names_of(compose(config_name, []))
        if named[1] in names:
            raise UserError(f"{named[1]} has no choices in this command: set what it holds, as --cfg job prints it") from None
        close = get_close_matches(named[1], names, n=1)
        instead = f"did you mean {close[0]}?" if close else "--cfg job prints what there is"
        raise UserError(f"{named[1]} is no setting: {instead}") from None


def start(module: str, config: dict[str, Any]) -> int:
    """Start a command's processes on a composed configuration and wait for them; their status."""
    from alexnet_dist.launching.processes import start_processes  # here: as above

    processes, config = importlib.import_module(module).prepare_start(config)
    restarts = config["parallel"].get("max_restarts", 0)
    run_dir = config.get("run", {}).get("dir")
    done_before = run_dir and read_outcome(Path(run_dir)) == "done"
    try:
        status = start_processes(worker, processes, restarts, module, config)
    finally:
        if run_dir:  # it was refused, or stopped before anything was in it
            RunFolder(Path(run_dir)).remove_if_bare()
    said = ("signal",) if done_before else ("signal", "done")
    if status > 128 and not (run_dir and read_outcome(Path(run_dir)) in said):
        tell(f"ended by {signal.Signals(status - 128).name}")
    return status


def _compose_outside(module: str, config_name: str) -> None:
    from alexnet_dist.launching.sweeps import JobFailed, Sweep  # here: as above

    sweep = Sweep(module)
    words = sys.argv[1:]
    if {"-m", "--multirun"} & set(words) and any("=glob(" in word for word in words):
        from alexnet_dist.launching.sweep_job import sweep_jobs

        sweep_jobs([word for word in words if not word.startswith("-")])  # Hydra would begin none and say nothing
    sys.argv[1:], folder = with_sweep_folder(words)
    swept = folder / "multirun.yaml" if folder else None
    said_before = swept.read_bytes() if swept and swept.exists() else None

    def job(composed: DictConfig) -> Any:
        read = partial(_read, composed)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return sweep.run(read, partial(start, module))
        with errors_as_sentences():  # inside, since Hydra prints a line of its own for what leaves a job
            if status := start(module, read()):
                sys.exit(status)
        return None

    try:
        _with_hydra(config_name, job)
    except JobFailed as error:
        if not sweep.statuses:  # the jobs ran elsewhere
            raise RunFailed(f"{error}; the others went on") from None
    finally:
        sweep.wait()
        if swept and said_before and sweep.statuses and set(sweep.statuses.values()) == {USER_ERROR_STATUS}:
            swept.write_bytes(said_before)  # all jobs were refused, and it tells of those before
        bare = [*_sweep_folders, *([folder] if folder and said_before is None else [])]
        for made in bare:
            remove_folder(made, "multirun.yaml")
        if sweep.statuses:
            tell(sweep.summary())
    if sweep.status():
        sys.exit(sweep.status())


def _with_hydra(config_name: str, job: Callable[[DictConfig], Any]) -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on instead of printing them and exiting with 1
    with _suggesting(config_name):
        hydra.main(version_base="1.3", config_path=f"pkg://{CONFIGURATION}", config_name=config_name)(job)()


def _read(composed: DictConfig) -> dict[str, Any]:
    return _noted(_plain(composed), list(HydraConfig.get().overrides.task))


def _noted(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The configuration, with the overrides in it where it is that of a run."""
    if isinstance(config.get("run"), dict):
        config["run"]["overrides"] = overrides
    return config


def _plain(config: DictConfig) -> dict[str, Any]:
    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items() if key != "hydra"}
