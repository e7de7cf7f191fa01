"""The batch scripts, shipped as a package so that alexnet-dist slurm finds them wherever it is installed."""
