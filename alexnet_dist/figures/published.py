"""What the authors measured, to set beside what is measured here: the paper's tables and claims, their program's log comments.

Errors are fractions. The layer files are those of the authors' program (computerhistory/AlexNet-Source-Code), whose log
comments stand at the end of layers/layer-params-<number>.cfg.
"""

from dataclasses import dataclass

ILSVRC_2012 = "ILSVRC-2012 validation"
ILSVRC_2010 = "ILSVRC-2010 test"


@dataclass(frozen=True)
class Published:
    """A measurement of the authors.

    experiment: the file in conf/experiment that repeats it, or None. net: what was measured. top1_error, top5_error: fractions
    of the images. data: which images. views: 1 or 10. nets: how many nets' softmax outputs were averaged. source: where it
    stands.
    """

    experiment: str | None
    net: str
    top1_error: float
    top5_error: float
    data: str
    views: int
    nets: int
    source: str


PUBLISHED = (
    Published("paper", "1 CNN", 0.407, 0.182, ILSVRC_2012, 10, 1, "paper, table 2"),
    Published("paper", "5 CNNs", 0.381, 0.164, ILSVRC_2012, 10, 5, "paper, table 2"),
    Published("sixth_conv", "1 CNN*, a sixth convolution", 0.390, 0.166, ILSVRC_2012, 10, 1, "paper, table 2"),
    Published(None, "7 CNNs*", 0.367, 0.154, ILSVRC_2012, 10, 7, "paper, table 2"),
    Published("paper", "1 CNN", 0.375, 0.170, ILSVRC_2010, 10, 1, "paper, table 1"),
    Published("paper", "1 CNN, centre view", 0.390, 0.183, ILSVRC_2010, 1, 1, "paper, section 4.1"),
    Published("net145", "#145", 0.406640, 0.182100, ILSVRC_2012, 10, 1, "layer-params-145.cfg"),
    Published("net145", "#145", 0.374727, 0.169987, ILSVRC_2010, 10, 1, "layer-params-145-2010.cfg"),
    Published("net145", "#145, centre view", 0.390247, 0.182953, ILSVRC_2010, 1, 1, "layer-params-145-2010.cfg"),
    Published("sixth_conv", "#146", 0.389900, 0.166220, ILSVRC_2012, 10, 1, "layer-params-146-2012-2011.cfg"),
    Published("no_overlap", "#147", 0.410580, 0.185100, ILSVRC_2012, 10, 1, "layer-params-147.cfg"),
    Published("no_lrn", "#148", 0.420340, 0.193620, ILSVRC_2012, 10, 1, "layer-params-148.cfg"),
    Published("towers_apart", "#150", 0.418280, 0.193300, ILSVRC_2012, 10, 1, "layer-params-150.cfg"),
    Published("one_gpu", "#145-half", 0.391680, 0.182287, ILSVRC_2010, 10, 1, "layer-params-145-half.cfg"),
)


@dataclass(frozen=True)
class Ablation:
    """By how much leaving a part out made the authors' net worse, as differences of error fractions on the same images."""

    experiment: str
    left_out: str
    top1_worse: float
    top5_worse: float
    source: str


ABLATIONS = (
    Ablation("one_gpu", "the second GPU", 0.017, 0.012, "paper, section 3.2"),
    Ablation("no_lrn", "response normalisation", 0.014, 0.012, "paper, section 3.3"),
    Ablation("no_overlap", "overlap of the poolings", 0.004, 0.003, "paper, section 3.4"),
    Ablation("towers_apart", "crossings before the last layer", 0.011, 0.011, "layer-params-150.cfg"),
)


@dataclass(frozen=True)
class TrainingSpeed:
    """A four-layer convolutional net on CIFAR-10 reaches a training error so many times sooner with ReLUs than with tanh."""

    training_error: float
    times_sooner: float
    source: str


FIGURE_1 = TrainingSpeed(0.25, 6.0, "paper, figure 1")


def published_of(experiment: str | None) -> list[Published]:
    """The authors' measurements of the net that an experiment repeats, in the order of the paper."""
    return [entry for entry in PUBLISHED if experiment is not None and entry.experiment == experiment]
