"""Benchmarks: rivals measured side by side in one run, in turns."""
