"""Stages that need torch alone."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F

from alexnet_dist.bench.plain import ShiftedSumsNorm, plain_net, torch_norm
from alexnet_dist.kernels.dropout import DropoutKey, keep_mask
from alexnet_dist.kernels.units import activate
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.net import Net
from alexnet_dist.model.table import Table, build_table
from alexnet_dist.parallel.mesh import Mesh, join_mesh
from alexnet_dist.parallel.process import set_precision
from alexnet_dist.planning.work import random_batch, training_step
from alexnet_dist.training.step import load_kernels
from tests.distributed.processes import ONE_GPU, run_processes

KINDS = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


def device_of(dry: bool) -> torch.device:
    return torch.device("cpu") if dry else torch.device("cuda", 0)


def table_of(dry: bool) -> Table:
    return build_table(compose("train", [f"model={'tiny' if dry else 'paper'}"])["model"])


def _step(table: Table, batch: int, precision: str, mesh: Mesh, native: bool) -> Callable[[], None]:
    net = Net(table, mesh.crossing, native).to(mesh.device)
    return training_step(net, *random_batch(table, batch, mesh.device), mesh.tower_group, precision)


def _seconds(work: Callable[[], object], device: torch.device, times: int) -> float:
    """Of one call, by events on a GPU: the least of three measurements of `times` calls after a warm-up."""
    for _ in range(3):
        work()
    taken = []
    for _ in range(3):
        if device.type == "cpu":
            begun = time.perf_counter()
            for _ in range(times):
                work()
            taken.append((time.perf_counter() - begun) / times)
            continue
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        for _ in range(times):
            work()
        last.record()
        last.synchronize()
        taken.append(first.elapsed_time(last) / 1000 / times)
    return min(taken)


def machine(note: Any, dry: bool) -> None:
    """What the machine is, how many bytes a second it copies, and how many FLOP a second square products reach in fp32, tf32 and
    bf16. Dry: the CPU's."""
    device = device_of(dry)
    note(python=sys.version.split()[0], cores=len(os.sched_getaffinity(0)), torch=version("torch"), cuda=torch.version.cuda)
    if not dry:
        note(gpu=torch.cuda.get_device_name(device), nccl=".".join(map(str, torch.cuda.nccl.version())), triton=version("triton"))
        note(smi=subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False).stdout)
    values = 1 << (22 if dry else 28)
    source, target = torch.ones(values, device=device), torch.empty(values, device=device)
    note(copy_bytes_per_second=2 * 4 * values / _seconds(lambda: target.copy_(source), device, 5))
    side = 512 if dry else 8192
    for precision, kind in KINDS.items():
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        a, b = torch.randn(side, side, device=device, dtype=kind), torch.randn(side, side, device=device, dtype=kind)
        note(precision=precision, product_flops=2 * side**3 / _seconds(lambda a=a, b=b: a @ b, device, 5))


def numerics(note: Any, dry: bool) -> None:
    """Loss and gradients of the whole net in fp32, tf32 and bf16, by fused operations and by torch's, against float64 on the CPU:
    relative errors, the worst layer's named. Then the same step twice: are the bits the same? Dry: the tiny net on the CPU."""
    device, table = device_of(dry), table_of(dry)
    load_kernels("on", device, print)
    batch = 8 if dry else 32
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, table.input_size, table.input_size, generator=generator) * 60
    labels = torch.randint(table.classes, (batch,), generator=generator)
    exact = _gradients(table, torch.device("cpu"), images.double(), labels, "fp32", False)
    for precision in KINDS:
        for native in (False, True):
            one, other = (_gradients(table, device, images, labels, precision, native) for _ in range(2))
            errors = {name: ((one[name] - exact[name]).norm() / exact[name].norm()).item() for name in exact}
            worst = max(errors, key=lambda name: errors[name])
            same = all(torch.equal(one[name], other[name]) for name in one)
            note(precision=precision, native=native, loss=errors["loss"], worst=worst, error=errors[worst], same_bits=same)


def _gradients(
    table: Table, device: torch.device, images: torch.Tensor, labels: torch.Tensor, precision: str, native: bool
) -> dict[str, torch.Tensor]:
    net = Net(table, native=native)
    net.initialise(3)
    net.to(device=device, dtype=images.dtype if images.dtype == torch.float64 else None)
    autocast = set_precision(precision, device)
    given = images.to(device).contiguous(memory_format=torch.channels_last)
    with autocast():
        logits = torch.cat(net(given, DropoutKey(1, 2)), dim=1)
    loss = F.cross_entropy(logits.double(), labels.to(device))
    loss.backward()
    found = {name: parameter.grad.double().cpu() for name, parameter in net.named_parameters() if parameter.grad is not None}
    return {"loss": loss.detach().cpu().reshape(1), **found}


def masks(note: Any, dry: bool) -> None:
    """The dropout masks of the GPU against the CPU's: all alike? Also as the fused operation makes them. Dry: the CPU's twice."""
    device = device_of(dry)
    for layer, rows, units in ((5, 128, 4096), (6, 7, 33)):
        key = DropoutKey(11, 123_456, first_row=64).of(layer, units)
        here = keep_mask(key, rows, units, 0.5, torch.device("cpu"))
        there = keep_mask(key, rows, units, 0.5, device)
        alike = torch.equal(here, there.cpu())
        if not dry:
            fused = activate(torch.ones(rows, units, device=device), None, "", 0.5, key)
            alike = alike and torch.equal(here, fused.cpu() > 0)
        note(layer=layer, rows=rows, units=units, alike=alike, kept=here.float().mean().item())


def _alone(dry: bool, work: Callable[[Mesh], None]) -> None:
    with join_mesh(2, device_of(dry), timeout=120) as mesh:
        work(mesh)


def silence(note: Any, dry: bool) -> None:
    """Twenty steps in which the host must not wait for the GPU once: torch raises where it does. Dry: counted on meta."""

    def steps(mesh: Mesh) -> None:
        step = _step(table_of(dry), 128, "bf16", mesh, native=True)
        for _ in range(5):
            step()
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(20):
            step()
        torch.cuda.set_sync_debug_mode("default")
        note(steps=20, waited=0)

    if not dry:
        return _alone(dry, steps)
    done = subprocess.run(
        [sys.executable, "-m", "alexnet_dist.bench", "count", "format=json"], capture_output=True, text=True, check=True
    )
    counted = json.loads(done.stdout.splitlines()[-1])
    return note(**{name: counted[name] for name in ("launches", "bytes_per_image", "synchronisations")})


def _pair(steps: int, dry: bool) -> dict[str, float]:
    """Steps of a tower each, with crops of the next step exchanged beside them, as the feed does."""
    rank = int(os.environ["RANK"])
    if not dry:
        os.environ |= ONE_GPU | {"NCCL_HOSTID": f"tower-{rank}"}
    device, table = device_of(dry), table_of(dry)
    with join_mesh(table.towers, device, timeout=40) as mesh:
        step = _step(table, 8 if dry else 128, "fp32" if dry else "bf16", mesh, native=not dry)
        crops = torch.full((4 if dry else 64, table.input_size, table.input_size, 3), rank, dtype=torch.uint8, device=device)
        begun = time.perf_counter()
        for _ in range(steps):
            arrived = mesh.gather_rows(crops)
            mesh.peers.progressed()
            step()
            whole = arrived()
        right = all(bool((part == rank).all()) for rank, part in enumerate(whole.chunk(mesh.layout.shares)))
        sent, waited = mesh.crossing.read()
        return {"steps": steps, "seconds": time.perf_counter() - begun, "crops": right, "sent": sent, "waited": waited}


def pair(note: Any, dry: bool) -> None:
    """Two ranks on one GPU over NCCL, a tower each: 500 steps with the exchange of crops running beside them, and no hang. Dry:
    three steps of two processes over gloo."""
    for told in run_processes(_pair, 2, 3 if dry else 500, dry):
        note(**told)


def table(note: Any, dry: bool) -> None:
    """Images a second and the share of the product ceiling of one step, in each precision at batch 128 and 1024: plain PyTorch
    eager and compiled, this trainer by torch's operations and fused. Dry: the tiny net, batch 8, fp32, by torch's operations."""
    device, net = device_of(dry), table_of(dry)
    torch.backends.cudnn.benchmark = True  # as in a training

    def steps(mesh: Mesh) -> None:
        for batch in (8,) if dry else (128, 1024):
            for precision in ("fp32",) if dry else reversed(KINDS):  # what is wanted most comes first, for there is a limit
                ways: dict[str, Callable[[], Callable[[], object]]] = {
                    "ours fused": lambda batch=batch, kind=precision: _step(net, batch, kind, mesh, native=True),
                    "plain": lambda batch=batch, kind=precision: _plain(net, batch, kind, device, False),
                    "ours": lambda batch=batch, kind=precision: _step(net, batch, kind, mesh, native=False),
                    "plain compiled": lambda batch=batch, kind=precision: _plain(net, batch, kind, device, True),
                }
                for name, make in ways.items():
                    if dry and name in ("plain compiled", "ours fused"):
                        continue
                    try:
                        rate = batch / _seconds(make(), device, 1 if dry else 20)
                    except Exception as error:
                        note(batch=batch, precision=precision, way=name, error=str(error)[:500])
                        continue
                    note(batch=batch, precision=precision, way=name, images_per_second=rate, flops=rate * net.training_flops)

    _alone(dry, steps)


def _plain(table: Table, batch: int, precision: str, device: torch.device, compiled: bool) -> Callable[[], None]:
    net: Any = plain_net(table, ShiftedSumsNorm if compiled else torch_norm)
    net = net.to(device=device, memory_format=torch.channels_last)
    net = torch.compile(net, mode="max-autotune-no-cudagraphs") if compiled else net
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-9, momentum=0.9, weight_decay=0.0005, fused=True)
    images = torch.randn(batch, 3, table.input_size, table.input_size, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(table.classes, (batch,), device=device)
    autocast = set_precision(precision, device)

    def step() -> None:
        with autocast():
            loss = F.cross_entropy(net(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def profile(note: Any, dry: bool) -> None:
    """The kernels of five steps in bf16 at batch 128, by the time they take. Dry: the CPU's operations of one step."""

    def steps(mesh: Mesh) -> None:
        step = _step(table_of(dry), 8 if dry else 128, "fp32" if dry else "bf16", mesh, native=not dry)
        for _ in range(1 if dry else 5):
            step()
        activity = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[activity.CPU] if dry else [activity.CPU, activity.CUDA]) as seen:
            for _ in range(1 if dry else 5):
                step()
        order = "self_cpu_time_total" if dry else "self_cuda_time_total"
        note(table=seen.key_averages().table(sort_by=order, row_limit=30, max_name_column_width=70))

    _alone(dry, steps)


def gpu_tests(note: Any, dry: bool) -> None:
    """The tests that want a GPU (tests/gpu, tests/kernels). Dry: they are collected."""
    # The kernels' own, by the interpreter and the compiler, want none.
    for tests in (["tests/gpu"], ["tests/kernels", "--ignore=tests/kernels/test_triton.py"]):
        words = ["-m", "pytest", "-q", *tests, *(["--collect-only"] if dry else [])]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
        note(tests=tests[0], status=done.returncode, says=done.stdout[-6000:])


def sanitizer(note: Any, dry: bool) -> None:
    """compute-sanitizer's memcheck and racecheck over one step of the tiny net by the fused operations, where the tool is found.
    Dry: says whether it is."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    note(tool=tool, found=os.path.exists(tool))
    if dry or not os.path.exists(tool):
        return
    for check in ("memcheck", "racecheck"):
        words = [tool, "--tool", check, "--print-limit", "20", sys.executable, "-m", "tests.gpu.one_step"]
        try:
            done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=110)
            note(check=check, status=done.returncode, says=done.stdout[-3000:])
        except subprocess.TimeoutExpired as late:
            note(check=check, error="not done within 110 seconds", says=str(late.stdout)[-3000:])
