"""How a command starts: composing its configuration, starting its processes, torchrun, srun, sweeps."""
