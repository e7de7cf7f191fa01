"""A device is known by the name that CUDA gives it."""

import pytest

from alexnet_dist.training.peaks import peak_of


@pytest.mark.parametrize(
    ("device", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA A100-SXM4-40GB", "tf32", 156e12),
        ("NVIDIA A10G", "fp32", 31.2e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA L40S", "bf16", 362e12),
        ("NVIDIA A10G", "bf16", 70e12),
        ("NVIDIA A10", "bf16", 125e12),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA RTX A4000", "bf16", None),
        ("NVIDIA RTX A1000 Laptop GPU", "bf16", None),
        ("NVIDIA GeForce RTX 3090 Ti", "bf16", None),
        ("NVIDIA T400 4GB", "fp32", None),
        ("NVIDIA GB200", "bf16", None),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        ("CPU", "fp32", None),
    ],
)
def test_the_peak_of_a_device(device: str, precision: str, peak: float | None) -> None:
    assert peak_of(device, precision) == peak
