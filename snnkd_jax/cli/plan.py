"""`snnkd plan --topology v5e:2x2 --each-num-steps 1 2 4 8 16 --each-remat none stage block`."""

import functools
import itertools
import math
from typing import Any

import tyro

from snnkd_jax.cli.arguments import Record
from snnkd_jax.errors import InputError
from snnkd_jax.files import check_writable_file
from snnkd_jax.runs.config import Config


def plan(
    config: tyro.conf.OmitArgPrefixes[Config],
    topology: tuple[str, ...],
    model: str | None = None,
    per_chip_batch: int = 32,
    each_num_steps: tuple[int, ...] = (),
    each_remat: tuple[str, ...] = (),
    largest: bool = True,
    record: Record = None,
) -> None:
    """Plan a training on accelerators that you do not have.

    Prints time and memory of a training step on them, and the largest batch that fits. The step is compiled for them on
    the CPU, which takes minutes and needs the extra `plan`: pip install 'snnkd-jax[plan]'.

    Args:
        config: As for `snnkd train`; --batch-size is ignored.
        topology: TPU slices such as v5e:16x16, or GPUs of a machine such as h100:8.
        model: Architecture of the student; None: --student.
        per_chip_batch: Images per chip and step.
        each_num_steps: Several T, instead of --num-steps.
        each_remat: Several of none, stage and block, instead of --remat.
        largest: Search for the largest batch that fits, which takes three to eight times longer.
    """
    check_writable_file("record", record)
    import jax

    from snnkd_jax.runs.record import write_record

    jax.config.update("jax_platforms", "cpu")  # the accelerators are not there
    student, entries = model or config.student.student, []
    each = topology, each_num_steps or (config.student.num_steps,), each_remat or (config.student.remat,)
    for name, num_steps, remat in itertools.product(*each):
        options = {"student": student, "num_steps": num_steps, "remat": remat}
        changed = config.replace(**options).checked()
        entry = _measured(changed, name, per_chip_batch, largest)
        entries.append(options | entry)
        print(f"{name}, {changed.student.student}, T = {num_steps}, remat {remat}\n{_in_words(entry)}\n", flush=True)
    if record is not None:
        settings = config.flat() | {"run_dir": None, "teacher_checkpoint": None, "student": student}
        kind = "memory" if each_num_steps else "topologies"
        write_record(record, kind, {"config": settings, "entries": entries}, ["libtpu"])


def _measured(config: Config, topology: str, per_chip_batch: int, largest: bool) -> dict[str, Any]:
    """The entry of one plan in a record."""
    from snnkd_jax.planning.chips import devices
    from snnkd_jax.planning.collectives import total_bytes
    from snnkd_jax.planning.pod import largest_batch
    from snnkd_jax.planning.pod import plan as planned

    chip, _ = devices(topology)
    compiled = functools.cache(functools.partial(planned, config, topology))
    try:
        found = compiled(per_chip_batch)
        batch = None
        if largest:
            multiple = math.lcm(8, config.optimisation.accumulate)
            batch = largest_batch(lambda size: compiled(size).memory, per_chip_batch, chip.memory, multiple)
    except MemoryError as error:
        raise InputError(f"per_chip_batch={per_chip_batch}: {error}; make it smaller, or use remat") from error
    entry = {"topology": topology, **vars(found), "memory": found.memory, "capacity": chip.memory}
    return entry | {"collectives": total_bytes(found.collectives), "bounds": found.bounds(chip), "largest_batch": batch}


def _in_words(entry: dict[str, Any]) -> str:
    """The entry as text."""
    seconds, images = max(entry["bounds"].values()), entry["batch_size"] * entry["chips"]
    gib = {name: entry[name] / 2**30 for name in ("memory", "capacity", "arguments", "temporary")}
    lines = {
        "chips and images": f"{entry['chips']} with {entry['batch_size']} images each, {images} per step",
        "FLOPs per chip": f"{entry['flops'] / 1e9:.1f} G",
        "memory per chip": f"{gib['memory']:.2f} GiB of {gib['capacity']:.1f} (state, teacher and batch "
        f"{gib['arguments']:.2f}, temporary, mostly activations, {gib['temporary']:.2f})",
        "collectives": ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in entry["collectives"].items()),
        "step at best": f"{1e3 * seconds:.2f} ms, {images / seconds:.0f} images/s "
        f"({', '.join(f'{name} {1e3 * s:.2f}' for name, s in entry['bounds'].items())})",
    }
    if entry["largest_batch"] is not None:
        lines["largest batch"] = f"{entry['largest_batch']} images per chip"
    return "\n".join(f"  {name:18}{text}" for name, text in lines.items())
