"""What the authors measured, by the experiment that repeats it: validation errors in percent on ILSVRC-2012, ten views."""

from typing import Any

PUBLISHED: dict[str, dict[str, Any]] = {
    "paper": {"top1": 40.7, "top5": 18.2, "note": "paper, table 2, 1 CNN"},
    "net145": {"top1": 40.66, "top5": 18.21, "note": "source, log of #145"},
    "one_gpu": {"top1": 42.4, "top5": 19.4, "note": "paper, section 3.2: worse by 1.7 / 1.2"},
    "no_lrn": {"top1": 42.0, "top5": 19.4, "note": "source, log of #148; paper, section 3.3: worse by 1.4 / 1.2"},
    "no_overlap": {"top1": 41.1, "top5": 18.5, "note": "source, log of #147; paper, section 3.4: worse by 0.4 / 0.3"},
    "towers_apart": {"top1": 41.8, "top5": 19.3, "note": "source, log of #150; not in the paper"},
    "sixth_conv": {"top1": 39.0, "top5": 16.6, "note": "paper, table 2, 1 CNN*: pre-trained on the 2011 Fall release"},
}
