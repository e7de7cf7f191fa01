"""What a process that others are forked from imports for them all: DALI and torch.distributed's checkpoints too, which a launcher
has no need of.

None of it is garbage. So nothing looks for any meanwhile, nor among these objects later, which would copy their pages into each
process (as Python's gc.freeze advises).
"""

import gc
from importlib import import_module

gc.disable()
for module in ("launching.processes", "training.tensors"):
    import_module(f"alexnet_dist.{module}")
import_module("alexnet_dist.data.graph").convert()
gc.freeze()
gc.enable()
