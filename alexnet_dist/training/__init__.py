"""The training run's parts: the step, the update, the schedule, checkpoints, stopping."""
