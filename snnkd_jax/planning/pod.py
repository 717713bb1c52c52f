"""What a training step costs each chip of a pod, found by compiling it for the pod on a machine without one.

The step is the one that trains (`compiled.compile_steps`), with every option of the configuration; nothing is run and
no data are read. FLOPs, bytes and memory are the compiler's own account of its program, of one chip:

    step >= max(FLOPs / peak FLOP/s,  bytes / memory bandwidth,  2 (D - 1) / D all-reduced bytes / links)

with the figures of `snnkd_jax.planning.chips` and D chips, each of which sends so much in any all-reduce of that size.
Bytes are those that pass between the compiler's fused operations, some of which stay on the chip. No step is as fast as
that.
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
from snnkd_jax.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Plan:
    """A compiled training step; everything but the number of chips is of one chip, in bytes where it is memory.

    `arguments` are state, teacher and batch, `temporary` what else the step holds at its peak, mostly activations.
    For GPUs the compiler counts neither: `flops` are those of the program before it is compiled, `bytes` are None.
    `collectives` of the parts of an accumulated batch are listed once.
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
        """All that is needed; the state is updated in its place."""
        return self.arguments + self.outputs - self.aliased + self.temporary

    def bounds(self, chip: Chip) -> dict[str, float]:
        """Seconds that the step takes at least, for each of the reasons above."""
        reduced = total_bytes(self.collectives).get("all-reduce", 0)
        links = 2 * (self.chips - 1) / self.chips * reduced / chip.links
        found = {"compute": self.flops / chip.flops, "links": links}
        return found if self.bytes is None else found | {"memory": self.bytes / chip.bandwidth}


def planned_trainer(config: Config) -> tuple[Trainer, Variables]:
    """The student's trainer as a run would have it, but for constants, and the shapes of the teacher's variables."""
    image_shape, num_classes = shape_of(config.data.dataset, config.data.image_size)
    objective = config.objective.build()
    teacher = config.build_teacher(num_classes) if objective.needs_teacher else None
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
    )
    if teacher is None:
        return trainer, {}
    return trainer, jax.eval_shape(lambda: teacher.init(jax.random.key(0), image_shape))


def plan(config: Config, topology: str, per_chip_batch: int) -> Plan:
    """Compiles the student's training step for a topology of `chips.devices`; the batch size of `config` is not used.

    Raises:
        InputError: for what a run or `chips.devices` would refuse.
        MemoryError: if the compiler finds that the step does not fit.
    """
    accumulate = config.optimisation.accumulate
    if per_chip_batch < 1 or per_chip_batch % accumulate:
        raise InputError(f"per_chip_batch={per_chip_batch!r} must be a multiple of accumulate={accumulate}")
    _, there = devices(topology)
    mesh = jax.make_mesh((len(there),), ("data",), axis_types=(AxisType.Auto,), devices=there)
    trainer, teacher_variables = planned_trainer(config)
    size = per_chip_batch * len(there)
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
        raise MemoryError(f"{per_chip_batch} images a chip do not fit: {str(error).splitlines()[0]}") from error
    costs, memory = compiled.cost_analysis(), compiled.memory_analysis()
    if not costs:
        traced: Any = jax.jit(trainer.step).trace(*arguments)
        costs = {"flops": traced.lower(lowering_platforms=("cuda",)).cost_analysis()["flops"] / len(there)}
    # The body of a loop counts once; the one over the parts of an accumulated batch holds nearly everything.
    moved = costs.get("bytes accessed")
    return Plan(
        len(there),
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
    """The largest batch that fits, within an eighth, by few compilations.

    Memory is nearly a + c B, once a batch no longer fits into the memory beside a chip's arithmetic. The next size to
    be compiled is where the line through the last two that fit reaches 15/16 of what is left, eight times the last one
    at most; and, as soon as a size did not fit, the geometric mean of that one and the last, if it is smaller.

    `memory` gives the bytes that a batch needs, of `capacity`, and raises `MemoryError` if it is refused. The search
    starts with `first`, and goes on by multiples of `multiple`. Raises `MemoryError` if not even `first` fits.
    """
    fits, held = first, memory(first)
    if held > capacity:
        raise MemoryError(f"{first} images a chip need {held / 2**30:.2f} GiB, and there are {capacity / 2**30:.2f}")
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
