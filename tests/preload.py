"""What the process that tests fork others from does once for them all: it imports, and composes a configuration."""

from importlib import import_module

from alexnet_dist.launching.commands import compose
from alexnet_dist.launching.processes import PRELOAD

import_module(PRELOAD)
import_module("alexnet_dist.train")
compose("train", [])
