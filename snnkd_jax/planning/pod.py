"""The cost of a training step per chip of a pod, found by compiling it for the pod on a machine without one.

The step is that of training (`compiled.compile_steps`) with all options of the configuration; nothing is executed and
no data are read. FLOPs, bytes and memory are the compiler's own analysis of its program for one chip, and

    step time >= max(FLOPs / peak FLOP/s,  bytes / memory bandwidth,  2 (D - 1) / D all-reduced bytes / links)

with the figures of `snnkd_jax.planning.chips` and D chips, each of which sends that share in an all-reduce. Bytes are
those between the compiler's fused operations, some of which stay on the chip.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from snnkd_jax.data import shape_of
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.errors import InputError
from snnkd_jax.models import Variables
from snnkd_jax.planning.chips import Chip, devices
from snnkd_jax.planning.collectives import Collective, collectives, total_bytes
from snnkd_jax.runs.config import Config
from snnkd_jax.training.compiled import compile_steps
from snnkd_jax.training.lookahead import Lookahead
from snnkd_jax.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Plan:
    """Costs of a compiled training step per chip; sizes are in bytes.

    `arguments` are state, teacher and batch, `temporary` the other memory at the peak, mostly activations. For GPUs,
    `flops` are those of the program before compilation, and `bytes`, the memory traffic, are None. Collectives of the
    parts of an accumulated batch are listed once.
    """

    chips: int
    batch_size: int
    flops: float
    bytes: float | None
    arguments: int
    outputs: int
    aliased: int
    temporary: int
    collectives: tuple[Collective, ...]

    @property
    def memory(self) -> int:
        """Peak memory; the state is updated in place."""
        return self.arguments + self.outputs - self.aliased + self.temporary

    def bounds(self, chip: Chip) -> dict[str, float]:
        """Lower bounds of the step time in s, by the formula above."""
        reduced = 2 * (self.chips - 1) / self.chips * total_bytes(self.collectives).get("all-reduce", 0)
        bounds = {"compute": self.flops / chip.flops, "links": reduced / chip.links}
        return bounds if self.bytes is None else bounds | {"memory": self.bytes / chip.bandwidth}


def planned_trainer(config: Config) -> tuple[Trainer, Variables]:
    """The student's trainer with arbitrary constants, and the shapes of the teacher's variables."""
    image_shape, num_classes = shape_of(config.data.dataset, config.data.image_size)
    objective = config.objective.build()
    teacher = config.build_teacher(num_classes) if objective.needs_teacher else None
    every = config.optimisation.lookahead
    trainer = Trainer(
        config.build_student(num_classes),
        objective,
        config.optimisation.build(config.optimisation.epochs, steps_per_epoch=1000),
        Normalisation((0.5,) * image_shape[-1], (0.25,) * image_shape[-1]),
        config.data.augmentation(),
        image_shape,
        config.run.seed,
        teacher,
        accumulate=config.optimisation.accumulate,
        student_noise=config.data.noise(),
        lookahead=None if every is None else Lookahead(every, num_steps=1000),
    )
    if teacher is None:
        return trainer, {}
    return trainer, jax.eval_shape(lambda: teacher.init(jax.random.key(0), image_shape))


def plan(config: Config, topology: str, per_chip_batch: int) -> Plan:
    """Compiles the student's training step for a topology of `chips.devices`; the batch size of `config` is not used.

    Raises `InputError` as a run and `chips.devices` do, and `MemoryError` if the compiler refuses the size.
    """
    accumulate = config.optimisation.accumulate
    if per_chip_batch < 1 or per_chip_batch % accumulate:
        raise InputError(f"per_chip_batch={per_chip_batch!r} must be a multiple of accumulate={accumulate}")
    _, chips = devices(topology)
    mesh = jax.make_mesh((len(chips),), ("data",), axis_types=(AxisType.Auto,), devices=chips)
    trainer, teacher_variables = planned_trainer(config)
    size = per_chip_batch * len(chips)
    batch = {
        "images": jax.ShapeDtypeStruct((size, *trainer.image_shape), jnp.uint8),
        "labels": jax.ShapeDtypeStruct((size,), jnp.int32),
    }
    arguments = jax.eval_shape(trainer.init), teacher_variables, batch
    step: Any = compile_steps(trainer, mesh).train
    try:
        compiled = step.lower(*arguments).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(f"{per_chip_batch} images per chip do not fit: {str(error).splitlines()[0]}") from error
    costs, memory = compiled.cost_analysis(), compiled.memory_analysis()
    if not costs:
        traced: Any = jax.jit(trainer.step).trace(*arguments)
        costs = {"flops": traced.lower(lowering_platforms=("cuda",)).cost_analysis()["flops"] / len(chips)}
    # The body of a loop counts once; the loop over the parts of an accumulated batch has nearly all operations.
    moved = costs.get("bytes accessed")
    return Plan(
        len(chips),
        per_chip_batch,
        costs["flops"] * accumulate,
        moved and moved * accumulate,
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        collectives(compiled.as_text()),
    )


def largest_batch(memory: Callable[[int], float], first: int, capacity: float, multiple: int = 8) -> int:
    """Searches for the largest batch that fits, to within an eighth, with few compilations.

    Memory is nearly linear in the batch size, except for batches that fit into on-chip memory. The next size is where
    the line through the last two sizes that fit reaches 15/16 of the remaining capacity, but at most eight times the
    last one, and at most its geometric mean with the smallest size that did not fit.

    `memory` returns the bytes of a batch, or raises `MemoryError`. The search starts at `first`, which must fit (else
    `MemoryError`), and continues with multiples of `multiple`.
    """
    fits, held = first, memory(first)
    if held > capacity:
        raise MemoryError(f"{first} images per chip need {held / 2**30:.2f} of {capacity / 2**30:.2f} GiB")
    too_large, line, size = math.inf, math.inf, 2 * first
    while size > 17 / 16 * fits:
        try:
            needed = memory(size)
        except MemoryError:
            needed = math.inf
        if needed > capacity:
            too_large = size
        else:
            slope = (needed - held) / (size - fits)
            line = size + 15 / 16 * (capacity - needed) / slope if slope > 0 else math.inf
            fits, held = size, needed
        size = int(min(line, 8 * fits, math.sqrt(fits * too_large)) // multiple) * multiple
    return fits
