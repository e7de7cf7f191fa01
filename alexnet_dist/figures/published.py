"""What the authors measured, by the experiment that repeats it: the paper's tables and claims, and their program's log comments.

Errors are in percent. The layer files are those of the authors' program (computerhistory/AlexNet-Source-Code), whose log
comments stand at the end of layers/layer-params-<number>.cfg.
"""

from typing import Any

ILSVRC_2012 = "ILSVRC-2012 validation"
ILSVRC_2010 = "ILSVRC-2010 test"

# top1, top5: errors of one net, with ten views. data: on which images. note: where it stands.
PUBLISHED: dict[str, dict[str, Any]] = {
    "paper": {"top1": 40.7, "top5": 18.2, "data": ILSVRC_2012, "note": "paper, table 2, 1 CNN"},
    "net145": {"top1": 40.66, "top5": 18.21, "data": ILSVRC_2012, "note": "layer-params-145.cfg"},
    "one_gpu": {"top1": 39.2, "top5": 18.2, "data": ILSVRC_2010, "note": "layer-params-145-half.cfg; paper, section 3.2"},
    "no_lrn": {"top1": 42.0, "top5": 19.4, "data": ILSVRC_2012, "note": "layer-params-148.cfg; paper, section 3.3"},
    "no_overlap": {"top1": 41.1, "top5": 18.5, "data": ILSVRC_2012, "note": "layer-params-147.cfg; paper, section 3.4"},
    "towers_apart": {"top1": 41.8, "top5": 19.3, "data": ILSVRC_2012, "note": "layer-params-150.cfg; not in the paper"},
    "sixth_conv": {"top1": 39.0, "top5": 16.6, "data": ILSVRC_2012, "note": "paper, table 2, 1 CNN*"},
}

# The same nets as the authors ran them, beside net145.
AS_RUN = {"net145_half": "one_gpu", "net146": "sixth_conv", "net147": "no_overlap", "net148": "no_lrn", "net150": "towers_apart"}
PUBLISHED |= {run: PUBLISHED[experiment] for run, experiment in AS_RUN.items()}

# By how many points of top-1 and top-5 error a net is worse than the whole one, on the same images; None where no figure is told.
WORSE_BY: dict[str, tuple[tuple[float, float | None] | None, str]] = {
    "one_gpu": ((1.7, 1.2), "paper, section 3.2; ILSVRC-2010"),
    "towers_apart": ((1.2, 1.1), "layer-params-150.cfg; not in the paper"),
    "no_lrn": ((1.4, 1.2), "paper, section 3.3"),
    "no_overlap": ((0.4, 0.3), "paper, section 3.4"),
    "no_colour": ((1.0, None), "paper, section 4.1: by over 1 point"),
    "no_conv4": ((2.0, None), "paper, section 7: by about 2 points"),
    "no_dropout": (None, "paper, section 4.2: substantial overfitting"),
    "sixth_conv": ((-1.7, -1.6), "paper, table 2; begun with layers of Fall 2011"),
    "tanh": (None, "paper, section 3.1: six times slower"),
}
WORSE_BY |= {run: WORSE_BY[experiment] for run, experiment in AS_RUN.items()}

# Figure 1: on CIFAR-10 a four-layer net reaches this training error so many times sooner with ReLUs than with tanh.
FIGURE_1: dict[str, Any] = {"training_error": 25.0, "times_sooner": 6, "note": "paper, figure 1"}
