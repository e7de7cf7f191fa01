"""A command that is refused before it starts, and says what GPUs it would have had."""

import os
from typing import Any

from alexnet_dist.errors import UserError


def prepare_start(config: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    raise UserError(os.environ["CUDA_VISIBLE_DEVICES"])
