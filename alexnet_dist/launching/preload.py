"""What a process that others are forked from imports for them all: DALI and torch.distributed's checkpoints too, which a launcher
has no need of, and torch's compiler, which torch imports at the first operation of torch.library.

None of it is garbage. So nothing looks for any meanwhile, nor among these objects later, which would copy their pages into each
process (as Python's gc.freeze advises). Of Triton, which the compiler imports, frozen objects would be told as leaks at the end.
"""

import gc
import os
import tempfile
from importlib import import_module
from unittest import mock

from alexnet_dist.launching.folders import SCRATCH

gc.disable()
for module in ("launching.processes", "data.graph", "training.tensors"):
    import_module(f"alexnet_dist.{module}")
gc.freeze()
# The compiler makes a folder for itself when it is imported.
with tempfile.TemporaryDirectory(prefix=SCRATCH) as folder, mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=folder):
    import_module("torch._dynamo")
gc.enable()
