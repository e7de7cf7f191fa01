"""What a process that others are forked from imports for them all: DALI and torch.distributed's checkpoints too, which a launcher
has no need of.

None of it is garbage. So nothing looks for any meanwhile, nor among these objects later, which would copy their pages into each
process (as Python's gc.freeze advises).
"""

import gc
import tempfile
from importlib import import_module
from unittest import mock

from alexnet_dist.launching.folders import SCRATCH

gc.disable()
try:
    for module in ("launching.processes", "training.tensors"):
        import_module(f"alexnet_dist.{module}")
    # DALI writes what it has converted to a file.
    with tempfile.TemporaryDirectory(prefix=SCRATCH) as folder, mock.patch.object(tempfile, "tempdir", folder):
        import_module("alexnet_dist.data.graph").convert()
finally:  # where one is not there, which Python passes over
    gc.freeze()
    gc.enable()
