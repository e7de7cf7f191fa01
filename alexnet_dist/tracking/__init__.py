"""The record of a run: metrics file, W&B, progress display."""
