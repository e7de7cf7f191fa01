"""Which cores the threads of DALI's pipelines run on."""

import os

# DALI's list of them, and whether it is not the user's.
_MASK = "DALI_AFFINITY_MASK"
_MASK_IS_OURS = _MASK not in os.environ


def name_cores(threads: int) -> bool:
    """Tell DALI which cores to pin a pipeline's threads to: beside those of other ranks here, as long as there are enough.

    A list that the user has set stays as it is; an empty one is for no pinning. Returns whether there is a core for each thread.
    """
    if _MASK_IS_OURS:
        cores = sorted(os.sched_getaffinity(0))
        first = int(os.environ.get("LOCAL_RANK", "0")) * threads
        os.environ[_MASK] = ",".join(str(cores[(first + i) % len(cores)]) for i in range(threads))
    return len(list(filter(None, os.environ[_MASK].split(",")))) >= threads
