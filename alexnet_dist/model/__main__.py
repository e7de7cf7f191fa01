"""The door of python -m alexnet_dist.model; the command is alexnet_dist/table.py."""

from alexnet_dist.table import main

if __name__ == "__main__":
    main()
