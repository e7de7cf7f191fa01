"""The batch scripts for SLURM, written where the user works.

alexnet-dist slurm [folder]
"""

import sys
from importlib.resources import files
from operator import methodcaller
from pathlib import Path

from alexnet_dist.errors import UserError
from alexnet_dist.files import write_new
from alexnet_dist.launching.sentences import errors_as_sentences


def main() -> None:
    if sys.argv[1:] in (["--help"], ["-h"]):
        print("usage: alexnet-dist slurm [folder]\n\nwrites the batch scripts for SLURM into the folder, by default slurm/")
        return
    with errors_as_sentences():
        if len(sys.argv) > 2 or sys.argv[-1].startswith("-"):
            raise UserError("give one folder for the scripts, or none for slurm/: alexnet-dist slurm jobs")
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else "slurm")
        scripts = [script for script in files("alexnet_dist.slurm").iterdir() if script.name.endswith(".sbatch")]
        for script in scripts:
            if (folder / script.name).exists():
                raise UserError(f"{folder / script.name} is there already: move it away, or name another folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made ({error.strerror}): name another folder") from None
        for script in scripts:
            write_new(folder / script.name, methodcaller("write", script.read_bytes()))
            print(folder / script.name)


if __name__ == "__main__":
    main()
