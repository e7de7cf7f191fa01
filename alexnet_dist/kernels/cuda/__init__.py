"""The fused operations in Triton. Imported where a GPU's kernels are called for, and nowhere else: Triton is not everywhere."""
