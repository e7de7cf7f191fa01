"""Under torchrun: every process prints where in the mesh it stands, and on which host."""

import json
import os
import socket

import torch

from alexnet_dist.parallel.mesh import join_mesh


def main() -> None:
    with join_mesh(towers=2, device=torch.device("cpu"), timeout=60) as mesh:
        place = {"host": socket.gethostname(), "rank": mesh.rank, "replica": mesh.replica, "share": mesh.share}
        # One write, so that the processes' lines do not mix.
        os.write(1, (json.dumps(place) + "\n").encode())


if __name__ == "__main__":
    main()
