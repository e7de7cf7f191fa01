"""The training run's parts: update rule, schedules, checkpoints, validation."""
