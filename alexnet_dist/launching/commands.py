"""What the commands share: Hydra outside, the launcher inside, and how a command ends.

The process that a person starts composes the configuration and starts the workers with it. Under an outer torchrun or srun
every rank composes the same configuration from the same words, without letting Hydra touch the disk.
"""

import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from alexnet_dist.dali import dali_package
from alexnet_dist.errors import RunFailed, Stopped, UserError, outlive_streams, tell
from alexnet_dist.files import make_new_folder
from alexnet_dist.launching.outer import adopt_srun, outer_launcher, rank_of_process
from alexnet_dist.launching.overrides import overrides_under, refuse_old_names, with_layers_added
from alexnet_dist.launching.processes import CRASHED, start_processes
from alexnet_dist.parallel.peers import LOST, LostPeerError
from alexnet_dist.tracking.run_folder import read_outcome

CONFIGURATION = "alexnet_dist.conf"
USER_ERROR_STATUS = 2

# Given the composed configuration and the sweep job's number (None outside sweeps), which it checks: how many processes to
# start, and the configuration for them.
PrepareStart = Callable[[dict[str, Any], int | None], tuple[int, dict[str, Any]]]

# For a sweep's folder: made when Hydra first asks for its name, and by no two sweeps of the same second.
OmegaConf.register_new_resolver("new_folder", lambda wanted: str(make_new_folder(Path(wanted))), use_cache=True, replace=True)


def distributed_command(module: str, config_name: str, prepare_start: PrepareStart) -> None:
    """Run `module`.run(config) in processes of its own, or in this one where torchrun or srun started several."""
    with errors_as_sentences():
        launcher = outer_launcher()
        if launcher == "srun":
            os.environ.update(adopt_srun())
        refuse_old_names(sys.argv[1:])
        sys.argv[1:] = with_layers_added(sys.argv[1:])
        if launcher is None:
            _compose_outside(module, config_name, prepare_start)
        else:
            words = overrides_under(launcher)
            worker(module, _noted(compose(config_name, words), words))


def command(config_name: str, run: Callable[[dict[str, Any]], None]) -> None:
    """Run a command of one process on its composed configuration."""
    with errors_as_sentences():
        refuse_old_names(sys.argv[1:])
        _with_hydra(config_name, run)


def worker(module: str, config: dict[str, Any]) -> None:
    """One process of a command; it ends here, with its status, if something goes wrong."""
    # Until something handles them: a Ctrl-C would otherwise be heeded only when the main thread no longer waits for a peer.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with errors_as_sentences():
            importlib.import_module(module).run(config)
    except SystemExit as leaving:
        sys.stdout.flush()
        # Not sys.exit: threads of libraries that wait for a lost peer would keep the process.
        os._exit(leaving.code if isinstance(leaving.code, int) else 1)


def compose(config_name: str, overrides: list[str]) -> dict[str, Any]:
    """The composed configuration as plain containers; nothing is written."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module(CONFIGURATION, version_base="1.3"):
        return _plain(hydra.compose(config_name, overrides=with_layers_added(overrides)))


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Turn what the user can mend into one sentence and status 2, and a failed run into one line and status 1. A standard stream
    that is lost does not change the status."""
    outlive_streams()
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        _tell_once(error, _sentence(error))
        sys.exit(USER_ERROR_STATUS)
    except KeyboardInterrupt:
        tell("interrupted")
        sys.exit(128 + signal.SIGINT)
    except Stopped as stopped:
        sys.exit(128 + stopped.signum)
    except RunFailed as error:
        _tell_once(error, str(error))
        sys.exit(1)
    except LostPeerError:
        # Launchers look every 0.1 s: the process that was lost, or that failed with words of its own, is to be found first.
        time.sleep(0.5)
        sys.exit(LOST)
    except Exception:
        tell(f"[rank {rank_of_process()}] {traceback.format_exc()}")
        sys.exit(CRASHED)


def _tell_once(error: Exception, sentence: str) -> None:
    """What all processes find wrong is said by one; the others wait for it, since the end of the first ends all."""
    said_by_another = getattr(error, "said_by_another", None)
    if said_by_another or (said_by_another is None and rank_of_process()):
        time.sleep(2 if said_by_another else 6)
    if not said_by_another:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {sentence}", markup=False, style="red")


def _compose_outside(module: str, config_name: str, prepare_start: PrepareStart) -> None:
    def job(composed: dict[str, Any]) -> None:
        number = HydraConfig.get().job.num if HydraConfig.get().mode.name == "MULTIRUN" else None
        processes, config = prepare_start(_noted(composed, list(HydraConfig.get().overrides.task)), number)
        restarts = config["parallel"].get("max_restarts", 0)
        status = start_processes(worker, processes, restarts, module, config)
        run_dir = config.get("run", {}).get("dir")
        if status > 128 and not (run_dir and read_outcome(Path(run_dir)) == "signal"):
            tell(f"ended by {signal.Signals(status - 128).name}")
        if status:
            sys.exit(status)

    _with_hydra(config_name, job)


def _with_hydra(config_name: str, run: Callable[[dict[str, Any]], None]) -> None:
    def job(composed: DictConfig) -> None:
        with errors_as_sentences():  # inside, since Hydra prints a line of its own for what leaves a job
            dali_package()
            run(_plain(composed))

    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on instead of printing them and exiting with 1
    hydra.main(version_base="1.3", config_path=f"pkg://{CONFIGURATION}", config_name=config_name)(job)()


def _noted(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """The configuration, with the overrides in it where it is that of a run."""
    if isinstance(config.get("run"), dict):
        config["run"]["overrides"] = overrides
    return config


def sweep_folder() -> Path:
    """Where the jobs of the sweep under way keep their run folders."""
    return Path(HydraConfig.get().sweep.dir)


def _plain(config: DictConfig) -> dict[str, Any]:
    container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items() if key != "hydra"}


def _sentence(error: Exception) -> str:
    """An error's message on one line, without Hydra's search paths and hints behind it."""
    kept = []
    for line in str(error).splitlines():
        if line.strip().startswith(("Config search path", "See https://", "full_key:", "object_type", "reference_type")):
            break
        kept.append(line.strip())
    return " ".join(part for part in kept if part)
