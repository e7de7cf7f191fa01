"""python -m tests.kernels.compiled: the Triton kernels of model=paper and net145 compiled for every kind of GPU, without one.

What ptxas made is read by cuobjdump, of Triton's own wheel: a kernel that spills registers to memory, or has a stack, is named,
and the status is 1.
"""

import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from alexnet_dist.kernels.cuda import loss, preprocess, spatial_norm, tail, units, update

CAPABILITIES = (75, 80, 90, 100, 120)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
MAPS = {"bf16": "*bf16", "fp32": "*fp32"}


def kernels(kind: str) -> dict[str, tuple[Any, dict[str, Any], dict[str, Any]]]:
    """By name a kernel, the types of its arguments, and what is compiled in; maps are of the `kind`."""
    x = MAPS[kind]
    tails = {
        # Channels, sides before and after, activation, window of the norm, pooling, relu last.
        "conv1": (48, 55, 27, "relu", 5, (3, 2, 0), False),
        "conv2": (128, 27, 13, "relu", 5, (3, 2, 0), False),
        "conv5": (128, 13, 6, "relu", 0, (3, 2, 0), False),
        "net145 conv1": (48, 55, 27, "", 5, (3, 2, 0), True),
        "tanh, norm": (128, 27, 27, "tanh", 5, (1, 1, 0), False),
    }
    found: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {}
    for name, (channels, side, out, activation, size, (kernel, stride, pad), last) in tails.items():
        columns = triton.next_power_of_2(channels)
        said = {
            "X_STRIDE": channels, "HEIGHT": side, "WIDTH": side, "OUT_HEIGHT": out, "OUT_WIDTH": out, "CHANNELS": channels,
            "C": columns, "P": 512 // columns, "BIAS": True, "ACTIVATION": activation, "SIZE": size, "ALPHA": 2e-5, "BETA": 0.75,
            "K": 2.0, "KERNEL": kernel, "STRIDE": stride, "PAD": pad,
        }  # fmt: skip
        types = {"x_ptr": x, "bias_ptr": "*fp32", "y_ptr": x, "index_ptr": "*u8", "pixels": "i32"}
        found[f"{name}, forward"] = tail.forward_kernel, types, {**said, "RELU_LAST": last}
        types = {
            "gradient_ptr": x, "x_ptr": x, "bias_ptr": "*fp32", "index_ptr": "*u8", "x_gradient_ptr": x,
            "bias_gradient_ptr": "*fp32", **dict.fromkeys(("pixels", "g_image", "g_row", "g_column", "g_channel"), "i32"),
        }  # fmt: skip
        found[f"{name}, backward"] = tail.backward_kernel, types, {**said, "PASSES": 8}
    told = dict.fromkeys(("rows", "stride", "columns", "g_image", "g_pixel", "g_column", "first_row", "first_unit"), "i32")
    told |= {"seed": "i64", "threshold": "i64", "step_ptr": "*i64", "x_ptr": x, "y_ptr": x, "bias_ptr": "*fp32"}
    told |= {"gradient_ptr": x, "x_gradient_ptr": x, "bias_gradient_ptr": "*fp32"}
    for name, pixels, drops in (("conv3", 169, False), ("fc6", 1, True)):
        said = {"PIXELS": pixels, "LAYER": 5, "P": 16, "C": 64, "BIAS": True, "ACTIVATION": "relu", "DROP": drops}
        found[f"{name}, forward"] = units.forward_kernel, told, said
        found[f"{name}, backward"] = units.backward_kernel, told, {**said, "ACTIVATION": "tanh" if drops else "relu", "PASSES": 4}
    said = {"HEIGHT": 27, "WIDTH": 27, "CHANNELS": 128, "C": 128, "P": 4, "SIZE": 5, "ALPHA": 4e-5, "BETA": 0.75, "K": 1.0}
    told = {"x_ptr": x, "y_ptr": x, "gradient_ptr": x, "x_gradient_ptr": x, "scale_ptr": "*fp32", "pixels": "i32"}
    found["spatial norm, forward"] = spatial_norm.forward_kernel, told, said
    found["spatial norm, backward"] = spatial_norm.backward_kernel, told, said
    sizes = (48 * 363, 48, 2048 * 9216, 2048)
    many = dict.fromkeys(("weights", "velocities"), ("*fp32",) * 4) | {"gradients": (x, "*fp32") * 2}
    many |= {"copies": ("*bf16",) * 4, "finite_ptr": "*fp32", "numbers_ptr": "*fp64"}
    first = [0]
    for size in sizes:
        first.append(first[-1] + triton.cdiv(size, 2048))
    said = {"SIZES": sizes, "FIRST": tuple(first), "COPIED": (True, False) * 2, "GUARDED": True, "BLOCK": 2048}
    found["update"] = update.kernel, many, said
    told = {"crops_ptr": "*u8", "y_ptr": "*i64", "x_ptr": "*i64", "images_ptr": x, "divisor": "fp32"}
    told |= {"mirror_ptr": "*i1", "mean_mirror_ptr": "*i1"}
    told |= dict.fromkeys(("mean_ptr", "colour_ptr", "eigenvectors_ptr", "deviations_ptr"), "*fp32")
    found["preprocessing"] = preprocess.kernel, told, {"CROP": 224, "SIZE": 256, "COLOUR": True, "BLOCK": 1024}
    told = {"logits": (x, x), "strides": ("i32", "i32"), "gradients": (x, x), "images": "i32", "first_class": "i32"}
    told |= {"labels_ptr": "*i64", "wrong_ptr": "*i64"}
    told |= dict.fromkeys(("largest_ptr", "sums_ptr", "loss_ptr", "loss_gradient_ptr"), "*fp32")
    for name in ("largest", "sums", "gradient"):
        found[f"loss, {name}"] = getattr(loss, f"{name}_kernel"), told, {"CLASSES": 500, "C": 512}
    found["loss"] = loss.loss_kernel, told, {"IMAGES": 128, "N": 1024}
    return found


def resources(kernel: Any, types: dict[str, Any], said: dict[str, Any], capability: int) -> dict[str, int]:
    """What ptxas gave a kernel: REG, STACK, SHARED, LOCAL and so on. Pointers are to multiples of 16 bytes, as torch's are."""
    signature = {name: "constexpr" if name in said else types[name] for name in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if isinstance(kind, str) and kind[0] == "*"
    }
    made = triton.compile(ASTSource(kernel, signature, said, aligned), target=GPUTarget("cuda", capability, 32))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(made.asm["cubin"])
        dumped = subprocess.run([CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    return {name: int(value) for name, value in re.findall(r"([A-Z]+)(?:\[0\])?:(\d+)", dumped.stdout)}


def main() -> int:
    work = [
        (name, kind, capability, kernel, types, said)
        for kind in MAPS
        for name, (kernel, types, said) in kernels(kind).items()
        for capability in CAPABILITIES
    ]
    with ThreadPoolExecutor(2) as pool:
        used = list(pool.map(lambda entry: resources(*entry[3:], entry[2]), work))
    bad = [entry[:3] for entry, own in zip(work, used, strict=True) if own["STACK"] or own["LOCAL"]]
    most = max(zip(work, used, strict=True), key=lambda pair: pair[1]["REG"])
    print(f"{len(work)} kernels; at most {most[1]['REG']} registers, {most[0][:3]}")
    for entry in bad:
        print("spills or has a stack:", *entry)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
