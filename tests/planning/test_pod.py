"""Plans: what is compiled for a pod, what is read from it, and what the pages say of it.

Those marked `plan` need libtpu and compile for minutes: `python -m pytest -m plan`.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from records.plan import growth, plan_section

from snnkd_jax.data import load, shape_of
from snnkd_jax.errors import InputError
from snnkd_jax.planning.chips import CHIPS, devices
from snnkd_jax.planning.collectives import Collective
from snnkd_jax.planning.pod import Plan, largest_batch, plan, planned_trainer
from snnkd_jax.runs.config import Config

pytestmark = pytest.mark.optimised

RECORDS = sorted((Path(__file__).parents[2] / "experiments" / "results" / "plan").glob("*.json"))
SMALL = Config().replace(teacher="convnet", student="airbench94", preset="kdsnn", num_steps=2, width=0.25)


def test_bounds_by_hand():
    """197 GFLOP at 197 TFLOP/s, 81.9 MB at 819 GB/s; 1 kB that each of 4 chips sends 2 · 3 / 4 times, at 200 GB/s."""
    found = (Collective("all-reduce", "f32", (10, 20)), Collective("all-reduce", "f32", (50,)))
    made = Plan(4, 8, 197e9, 81.9e6, 700, 500, 400, 100, found)
    assert made.memory == 900
    bounds = made.bounds(CHIPS["v5e"])
    assert bounds == pytest.approx({"compute": 1e-3, "memory": 1e-4, "links": 7.5e-9})
    assert dataclasses.replace(made, bytes=None).bounds(CHIPS["h100"]).keys() == {"compute", "links"}


@pytest.mark.parametrize(
    ("memory", "capacity", "largest", "compilations"),
    [
        (lambda size: 30 + 10 * size, 16_000, 1597, 5),
        (lambda size: 30 + 10 * size, 230, 20, 4),
        (lambda size: 30 + 10 * size, 229, 19, 4),
        # Of the memory of this chip nothing is needed up to a size: so it is for small networks on a TPU.
        (lambda size: 7 + max(0.0, 0.7 * (size - 150)), 15_000, 21_568, 8),
        # The compiler needs more than the line says, then refuses.
        (lambda size: 30 + 10 * size + (5000 if size > 900 else 0), 10_000, 900, 9),
    ],
)
def test_the_largest_batch_is_found_within_an_eighth(memory, capacity, largest, compilations):
    compiled = []

    def needed(size: int) -> float:
        compiled.append(size)
        if memory(size) > 1.2 * capacity:
            raise MemoryError
        return memory(size)

    found = largest_batch(needed, 10, capacity)
    assert 7 / 8 * largest - 8 <= found <= largest
    assert found in compiled
    assert len(compiled) == len(set(compiled)) <= compilations


def test_a_first_batch_that_does_not_fit():
    with pytest.raises(MemoryError, match="8 images"):
        largest_batch(lambda size: size, 8, 7)


def test_topologies_that_are_not_understood_are_refused():
    for topology, message in (("v5e", "such as v5e:2x2"), ("h100:2x2", "such as h100:8"), ("v1:2x2", "is unknown")):
        with pytest.raises(InputError, match=message):
            devices(topology)


def test_shapes_of_data_sets_are_known_without_them(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    digits = load("digits")
    assert shape_of("digits", 224) == (digits.image_shape, digits.num_classes)
    assert shape_of("mnist", 224) == ((28, 28, 1), 10)
    assert shape_of("cifar100", 224) == ((32, 32, 3), 100)
    assert shape_of("imagenet2012", 96) == ((96, 96, 3), 1000)
    assert not list(tmp_path.iterdir())


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "topology": "v5e:2x2",
        "num_steps": 1,
        "remat": "none",
        "chips": 4,
        "batch_size": 32,
        "flops": 1.25e12,
        "temporary": 2**30,
        "memory": 2**31,
        "collectives": {"all-reduce": 44_700_000},
        "bounds": {"compute": 0.5, "memory": 0.25},
        "largest_batch": 96,
    } | changes


def record(kind: str, *entries: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": "x",
        "command": "snnkd plan",
        "entries": list(entries),
        "config": {"student": "resnet18", "width": 1.0, "preset": "none", "dtype": "float32"},
        "versions": {"jax": "0.10.2", "libtpu": "1"},
    }


def test_rows_of_topologies():
    text = plan_section([record("topologies", entry(), entry(collectives={"all-gather": 1}, largest_batch=None))])
    assert text.splitlines()[2:4] == [
        "| 4 (v5e:2x2) | 32 | 1250.0 | 2.00 | 44.70 | none | 500.00 | 96 |",
        "| 4 (v5e:2x2) | 32 | 1250.0 | 2.00 | 0.00 | all-gather | 500.00 | – |",
    ]


def test_rows_of_memory_and_its_growth():
    """3 GiB for four further steps against 1: a third."""
    made = record(
        "memory",
        *(
            entry(num_steps=t, remat=remat, temporary=gib * 2**30)
            for t, remat, gib in ((1, "none", 2), (1, "stage", 1), (5, "none", 5), (5, "stage", 2))
        ),
    )
    assert growth(made, "none") == 3 * 2**30 / 4
    lines = plan_section([made]).splitlines()
    assert lines[2:4] == ["| 1 | 2.00 | 1.00 | 1250.0 | 1250.0 |", "| 5 | 5.00 | 2.00 | 1250.0 | 1250.0 |"]
    assert lines[5].endswith("by 0.33 with stage, in units of what it grows by with none.")


def test_committed_plans():
    """Work per chip does not depend on the number of chips; with remat, memory grows less than half as fast with T."""
    for made in (json.loads(path.read_text()) for path in RECORDS):
        assert "+" not in made["commit"], "made from a tree that was not committed"
        for one in made["entries"]:
            assert one["collectives"].keys() == {"all-reduce"}
        if made["kind"] == "topologies":
            flops = [one["flops"] for one in made["entries"]]
            assert max(flops) == pytest.approx(min(flops), rel=0.01)
        else:
            assert growth(made, "block") < growth(made, "none") / 2


@pytest.mark.plan
@pytest.mark.parametrize("preset", ["kdsnn", "temporal"])
def test_work_per_chip_is_constant_and_only_gradients_are_exchanged(preset):
    """4, 16, 64 and 256 chips. What is exchanged depends neither on their number nor on that of the images."""
    config = dataclasses.replace(SMALL, preset=preset)
    plans = [plan(config, topology, 8) for topology in ("v5e:2x2", "v5e:4x4", "v5e:8x8", "v5e:16x16")]
    assert [made.chips for made in plans] == [4, 16, 64, 256]
    flops = [made.flops for made in plans]
    assert max(flops) == pytest.approx(min(flops), rel=0.01)
    check_collectives(plans[0], config)
    for other in (*plans[1:], plan(config, "v5e:2x2", 16)):
        assert sorted(map(str, other.collectives)) == sorted(map(str, plans[0].collectives))


def check_collectives(made: Plan, config: Config) -> None:
    """All-reduces alone: each gradient once, statistics of a value a channel, and scalars."""
    assert {one.operation for one in made.collectives} == {"all-reduce"}
    params = jax.tree.leaves(jax.eval_shape(planned_trainer(config)[0].init).params)
    kernels = sorted(int(np.prod(x.shape)) for x in params if x.ndim > 1)
    assert sorted(int(np.prod(one.shape)) for one in made.collectives if len(one.shape) > 1) == kernels


@pytest.mark.plan
def test_accumulation_moves_no_images_between_chips():
    config = dataclasses.replace(SMALL, accumulate=2)
    made = plan(config, "v5e:2x2", 16)
    check_collectives(made, config)
    assert made.flops == pytest.approx(plan(SMALL, "v5e:2x2", 16).flops, rel=0.05)


@pytest.mark.plan
@pytest.mark.parametrize("student", ["resnet18", "vgg16"])
def test_remat_takes_less_memory_and_more_operations_and_exchanges_nothing_again(student):
    config = dataclasses.replace(SMALL, student=student, preset="none", width=0.5, num_steps=4)
    none, stage, block = (plan(config.replace(remat=remat), "v5e:2x2", 64) for remat in ("none", "stage", "block"))
    assert max(stage.temporary, block.temporary) < 0.8 * none.temporary
    assert min(stage.flops, block.flops) > 1.2 * none.flops
    for other in (stage, block):
        assert sorted(map(str, other.collectives)) == sorted(map(str, none.collectives))


@pytest.mark.plan
def test_gpus_can_be_planned_for():
    """Their operations are counted before compilation, which the TPU's compiler counts much alike."""
    made = plan(SMALL, "h100:8", 8)
    assert {one.operation for one in made.collectives} == {"all-reduce"}
    assert made.temporary > 0
    assert made.flops == pytest.approx(plan(SMALL, "v5e:2x2", 8).flops, rel=0.3)
