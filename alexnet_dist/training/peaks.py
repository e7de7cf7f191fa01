"""The arithmetic that GPUs can do at most, as their makers give it: dense products, FLOP a second."""

import re

# By a word of the device's name, of which the first that fits counts: fp32, tf32, bf16 with sums in fp32; None: not in hardware.
# From NVIDIA's data sheets; of consumer cards from the architectures' white papers.
_PEAKS: dict[str, tuple[float, float | None, float | None]] = {
    "B200": (75e12, 1.1e15, 2.25e15),
    "GH200": (67e12, 495e12, 989e12),
    "H200 NVL": (60e12, 417e12, 835e12),
    "H200": (67e12, 495e12, 989e12),
    "H100 PCIe": (51e12, 378e12, 756e12),
    "H100 NVL": (60e12, 417e12, 835e12),
    "H100": (67e12, 495e12, 989e12),
    "A100": (19.5e12, 156e12, 312e12),
    "A40": (37.4e12, 74.8e12, 149.7e12),
    "A30": (10.3e12, 82e12, 165e12),
    "A10G": (31.2e12, 35e12, 70e12),
    "A10": (31.2e12, 62.5e12, 125e12),
    "L40S": (91.6e12, 183e12, 362e12),
    "L40": (90.5e12, 90.5e12, 181e12),
    "L4": (30.3e12, 60e12, 121e12),
    "V100": (15.7e12, None, None),
    "T4": (8.1e12, None, None),
    "RTX 6000 Ada": (91.1e12, 182e12, 364e12),
    "RTX A6000": (38.7e12, 77.4e12, 154.8e12),
    "RTX 5090": (104.8e12, 104.8e12, 209.5e12),
    "RTX 4090": (82.6e12, 82.6e12, 165.2e12),
    "RTX 3090": (35.6e12, 35.6e12, 71e12),
}


def peak_of(device: str, precision: str) -> float | None:
    """Of a device by the name that CUDA gives it, in `fp32`, `tf32` or `bf16`; None where it is not known, as of a laptop's."""
    for name, peaks in _PEAKS.items():
        if re.search(rf"\b{name}\b(?! (Laptop|Ti|SUPER|D)\b)", device):
            return peaks[("fp32", "tf32", "bf16").index(precision)]
    return None
