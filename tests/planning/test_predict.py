"""Predictions follow their formulas where these can be worked out by hand, and order layouts as links and memory decide."""

from dataclasses import replace

import pytest

from alexnet_dist.errors import UserError
from alexnet_dist.launching.commands import compose
from alexnet_dist.model.table import Table, build_table
from alexnet_dist.parallel.mesh import Layout
from alexnet_dist.planning.machine import Link, Machine, slowed
from alexnet_dist.planning.predict import Job, layouts, predict, predict_all

# Memory and launches cost nothing, so that a step is its products and its messages.
MACHINE = Machine(
    name="two", nodes=1, devices=2, conv=1e12, fc=2e12, streaming=1e30, operations=1e30, launch=0.0, memory=None,
    link=Link(latency=1e-4, bandwidth=1e9), network=None,
)  # fmt: skip
ONE, TWO_TOWERS, TWO_NETS = Layout(1, 1), Layout(1, 2), Layout(2, 1)


def _table(*overrides: str) -> Table:
    return build_table(compose("train", ["model=paper", *overrides])["model"])


JOB = Job(_table(), batch=128, map_bytes=4, wire_bytes=4)


def _products(table: Table, kind: str) -> float:
    """FLOP of a training step at batch 128."""
    of_kind = [layer for layer in table.layers if layer.kind == kind]
    without_image_gradient = table.layers[0].multiply_adds if kind == "conv" else 0
    return 128 * 2 * (3 * sum(layer.multiply_adds for layer in of_kind) - without_image_gradient)


def test_one_process_takes_its_products_time() -> None:
    alone = predict(JOB, MACHINE, ONE, "wait")
    assert alone.step == pytest.approx(_products(JOB.table, "conv") / 1e12 + _products(JOB.table, "fc") / 2e12)
    assert (alone.exposed_crossings, alone.exposed_gradients, alone.crossing_bytes) == (0, 0, 0)


def test_two_towers_that_wait_take_half_and_their_messages() -> None:
    alone, pair = predict(JOB, MACHINE, ONE, "wait"), predict(JOB, MACHINE, TWO_TOWERS, "wait")
    crossed = 2 * 128 * sum(layer.crossing_bytes for layer in JOB.table.layers)
    assert pair.crossing_bytes == crossed
    loss = 4 * (1e-4 + 128 * 4 / 1e9)
    assert pair.exposed_crossings == pytest.approx(8 * 1e-4 + crossed / 1e9 + loss)
    assert pair.step == pytest.approx(alone.step / 2 + pair.exposed_crossings)


def test_splitting_hides_what_there_is_arithmetic_for_and_no_more() -> None:
    fast, slow = replace(MACHINE, link=Link(0.0, 1e10)), replace(MACHINE, link=Link(0.0, 1e6))
    hidden, exposed = (predict(JOB, machine, TWO_TOWERS, "split") for machine in (fast, slow))
    assert hidden.exposed_crossings < 1e-5
    waiting = predict(JOB, slow, TWO_TOWERS, "wait")
    assert exposed.step < waiting.step
    # Only what is computed of the layers that read all towers can hide anything.
    reading_all = sum(layer.multiply_adds for layer in JOB.table.layers if layer.reads == "all")
    assert waiting.step - exposed.step <= 128 * 2 * 3 * reading_all / 2 / 1e12


def test_data_parallel_nets_average_every_gradient_behind_the_backward_pass() -> None:
    alone, apart = predict(JOB, MACHINE, ONE, "wait"), predict(JOB, MACHINE, TWO_NETS, "wait")
    assert apart.gradient_bytes == 4 * JOB.table.parameters
    assert alone.step / 2 < apart.step
    whole = 8 * 2 * 1e-4 + apart.gradient_bytes / 1e9  # a ring of two sends all bytes once
    assert 0 < apart.exposed_gradients < whole
    slow = predict(JOB, slowed(MACHINE, 1e6), TWO_NETS, "wait")
    # The backward pass hides next to nothing there.
    assert slow.exposed_gradients == pytest.approx(8 * 2 * 1e-4 + apart.gradient_bytes / (1e6 / 8 * 1448 / 1514), rel=0.01)


def test_a_bf16_wire_halves_what_crosses() -> None:
    full, half = (predict(replace(JOB, wire_bytes=size), MACHINE, TWO_TOWERS, "wait") for size in (4, 2))
    assert half.crossing_bytes == full.crossing_bytes / 2
    assert half.step < full.step


def test_layouts_are_those_that_the_devices_and_the_batch_allow() -> None:
    nodes = replace(MACHINE, devices=4, nodes=3, network=Link(1e-5, 1e9))
    found = {(layout.replicas, layout.shares) for layout in layouts(replace(JOB, batch=96), nodes)}
    assert found == {(1, 1), (2, 1), (4, 1), (8, 1), (12, 1), (1, 2), (2, 2), (4, 2), (6, 2)}
    started = [one.layout for one in predict_all(replace(JOB, batch=96), nodes) if one.startable]
    assert {(layout.replicas, layout.shares) for layout in started} == {(1, 1), (1, 2), (2, 2), (4, 2), (6, 2)}


def test_layouts_whose_replicas_cannot_cut_their_part_into_slices_are_none() -> None:
    six = replace(MACHINE, devices=6)
    found = [{(one.replicas, one.shares) for one in layouts(replace(JOB, batch=120, slices=count), six)} for count in (1, 8)]
    assert found[0] - found[1] == {(3, 2)}  # 3 slices in each of 3 replicas, of 40 images


def test_what_fits_no_device_is_refused_and_what_fits_some_layouts_is_marked() -> None:
    with pytest.raises(UserError, match="batch_size=128"):
        predict_all(JOB, replace(MACHINE, memory=1e8))
    whole = predict(JOB, MACHINE, ONE, "wait").memory
    fitting = {(one.layout, one.fits) for one in predict_all(JOB, replace(MACHINE, memory=whole - 1))}
    assert (ONE, False) in fitting
    assert (TWO_TOWERS, True) in fitting


def test_replicas_over_nodes_share_the_network_of_a_node() -> None:
    nodes = replace(MACHINE, devices=2, nodes=2, network=Link(1e-4, 1e8))
    on_one, over_two = (predict(JOB, nodes, Layout(count, 2), "wait") for count in (1, 2))
    assert on_one.exposed_gradients == 0
    # Two rings, one a tower, of half the parameters each, on one cable of 1e8 bytes/s; the backward pass hides a little.
    assert over_two.exposed_gradients == pytest.approx(2 * 4 * JOB.table.parameters / 2 / 1e8, rel=0.05)


def test_slices_need_less_memory_for_maps_and_more_for_gradients() -> None:
    whole, four = (predict(replace(JOB, slices=slices), MACHINE, ONE, "wait") for slices in (1, 4))
    assert four.step == pytest.approx(whole.step)
    gradients = 2 * 4 * JOB.table.parameters  # two slices' sum and another's beside the one under way
    held = 3 * 4 * JOB.table.parameters
    assert four.memory - held - gradients == pytest.approx((whole.memory - held) / 4)
    # Of two slices each the replicas exchange gradients behind the second alone, half as long a time.
    one_each, two_each = (predict(replace(JOB, slices=slices), MACHINE, TWO_NETS, "wait") for slices in (2, 4))
    assert two_each.exposed_gradients >= one_each.exposed_gradients
    assert two_each.gradient_bytes == one_each.gradient_bytes


@pytest.mark.parametrize(("replicas", "tensors"), [(2, 1.0), (3, 3.0), (4, 1.5), (6, 3.5)])
def test_the_sum_over_replicas_moves_what_the_trainer_s_does(replicas: int, tensors: float) -> None:
    slow = replace(MACHINE, devices=replicas, link=Link(1e-4, 1e6))
    summed = predict(JOB, slow, Layout(replicas, 1), "wait").exposed_gradients
    assert summed == pytest.approx(tensors * 4 * JOB.table.parameters / 1e6, rel=0.05)
