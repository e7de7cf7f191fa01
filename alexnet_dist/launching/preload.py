"""What a process that others are forked from imports for them all. Beside what a launcher needs: DALI, torch.distributed's
checkpoints, and torch's compiler, which is imported when an operation of torch.library is first called.

None of it is garbage. So nothing looks for any meanwhile, nor among these objects later, which would copy their pages into each
process (as Python's gc.freeze advises).
"""

import gc
import os
from importlib import import_module

from alexnet_dist.launching.folders import own_temporary_folder

_COMPILED = "TORCHINDUCTOR_CACHE_DIR"

gc.disable()
named = _COMPILED in os.environ
with own_temporary_folder():  # the compiler makes a folder in it, and names it for later
    for module in ("launching.processes", "data.graph", "training.tensors"):
        import_module(f"alexnet_dist.{module}")
    import_module("torch._dynamo")
if not named:
    os.environ.pop(_COMPILED, None)
gc.freeze()
gc.enable()
