"""Whether a net has begun to learn after its first steps, and what may help where it has not."""

from collections.abc import Mapping, Sequence
from math import log

LOOK = 200  # the step that is looked at
NEAR = 0.02  # nats from the loss of guessing
DEAD = 0.9  # a share of units


def signs_of_not_learning(loss: float, classes: int, layers: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """A line for each sign at step LOOK; `layers` is what `Activity.read` says of that step, `loss` its mean in nats."""
    help_ = "another optimizer.lr, or weight_std: he in the model's rows, may help"
    guessing = log(classes)
    signs = []
    if not loss < guessing - NEAR:
        signs.append(
            f"warning: the loss of step {LOOK}, {loss:.3f}, is no better than that of guessing among {classes} classes "
            f"({guessing:.3f}): {help_}"
        )
    for name, figures in layers.items():
        if (dead := max(figures["dead"])) >= DEAD:
            signs.append(f"warning: at step {LOOK} {dead:.0%} of the units of {name} are 0 for all images: {help_}")
    return signs
