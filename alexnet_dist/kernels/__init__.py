"""Fused operations: a reference in plain torch, C++ for CPUs, Triton for GPUs."""
