"""`snnkd energy RUN --against RUN2 --record FILE.json`; the definitions are those of `snnkd_jax.analysis.energy`."""

import dataclasses
import functools
from pathlib import Path
from typing import get_args

from snnkd_jax.analysis.joules import AC_PJ, MAC_PJ, joules
from snnkd_jax.cli.arguments import Dataset, Out, Record, Run, command_line
from snnkd_jax.errors import InputError, check_count
from snnkd_jax.files import check_writable_file
from snnkd_jax.runs.roles import Role


def energy(
    run: Run,
    against: Path | None = None,
    converted: int | None = None,
    num_steps: int | None = None,
    images: int = 1000,
    batch_size: int = 100,
    dataset: Dataset = None,
    mac_pj: float = MAC_PJ,
    ac_pj: float = AC_PJ,
    out: Out = None,
    record: Record = None,
) -> None:
    """Count operations and energy per image, layer by layer.

    Operations of all networks of the run are counted as NeuroBench defines them, those of integer neurons in their
    T x D binary sub-steps. A student is compared with an ANN of
    its architecture: the teacher of the run if it is one, or that of --against. The result is also written to
    RUN/energy.json, for the report.

    Args:
        against: Directory of a run on the same data whose teacher is an ANN of the student's architecture.
        converted: Also count the run's teacher converted into a spiking network, at this T.
        num_steps: T of the students; None: as in training.
        images: Number of test images to count, from the first.
        batch_size: Images per batch.
        mac_pj: Energy of a multiply-accumulate operation, in pJ.
        ac_pj: Energy of an accumulate operation, in pJ.
    """
    for name, value in (("images", images), ("batch_size", batch_size), ("num_steps", num_steps)):
        if value is not None:
            check_count(name, value)
    energy_of = functools.partial(joules, mac_pj=mac_pj, ac_pj=ac_pj)
    energy_of(0, 0)  # raises for wrong energies before anything is counted
    from snnkd_jax.analysis.costs import ann_of, cost_entry, measure
    from snnkd_jax.analysis.energy import summary
    from snnkd_jax.inference.convert import convert
    from snnkd_jax.inference.predict import accuracy_by_step
    from snnkd_jax.inference.trained import Trained, load
    from snnkd_jax.runs.command import command
    from snnkd_jax.runs.recipe import read_config
    from snnkd_jax.runs.record import result_files, write_record
    from snnkd_jax.training.manifest import is_trained

    roles = [role for role in get_args(Role) if is_trained(run / role)]
    if not roles:
        raise InputError(f"{run} has no network that finished training")
    config = read_config(run)
    check_writable_file("record", record)
    with result_files([run], out, "energy.json") as files:
        trained: dict[str, Trained] = {role: load(run, role) for role in roles}
        if against is not None:
            trained["ann"] = load(against, "teacher")
            if (found := trained["ann"].dataset) != config.data.label:
                raise InputError(f"against={against} is a run on {found}, not on {config.data.label}; give another")
        data = config.load_data()
        accuracy = {role: network.result.get("accuracy") for role, network in trained.items()}
        at_other_steps = {}
        if num_steps is not None:
            for role in trained.keys() & {"student", "student_baseline"}:
                at_other_steps[role] = dataclasses.replace(trained[role], network=trained[role].with_steps(num_steps))
        if converted is not None:
            at_other_steps["converted"] = convert(load(run, "teacher"), data.train_images, converted)
        for role, network in at_other_steps.items():
            logits = network.logits_by_step(data.test_images, network.network.num_steps or 1)
            accuracy[role] = float(accuracy_by_step(logits, data.test_labels)[-1])
        trained |= at_other_steps
        for role, network in trained.items():
            if network.levels > 1:
                try:
                    trained[role] = network.expanded()
                except InputError as error:
                    print(f"{role}: counted in integers, not in binary sub-steps: {error}")
        seen = {"teacher": data.paired or data}  # the others see the data set itself
        costs = {
            role: measure(network, seen.get(role, data).test_images[:images], batch_size)
            for role, network in trained.items()
        }
        anns = {role: ann_of(role, costs) for role in costs}
        if against is not None and "ann" not in (anns[role] for role in costs if role != "ann"):
            raise InputError(f"against={against}: its teacher is of none of the architectures of {run}; give another")

        for role, cost in costs.items():
            print(f"\n{role}: {trained[role].title}\n{summary(cost, mac_pj, ac_pj)}")
            if cost.num_steps is None:
                continue
            total, dense = energy_of(cost.macs, cost.acs), energy_of(cost.dense_pass, 0)
            shares = f"{total / dense:.3f} (estimate: {energy_of(*cost.estimate) / dense:.3f})"
            print(f"{shares} of the energy of all operations of an ANN of this architecture")
            if (ann := anns[role]) is None:
                print(
                    "no trained ANN of this architecture was counted; --against RUN2 takes the teacher of another run"
                )
            else:
                counted = energy_of(costs[ann].macs, costs[ann].acs)
                print(f"{total / counted:.3f} of that of the non-zero operations of the trained ANN, {ann}")
        options = {"against": against and "ANN", "converted": converted, "num_steps": num_steps, "images": images}
        content = {
            "command": command_line("energy", "RUN", **options, mac_pj=mac_pj, ac_pj=ac_pj, dataset=dataset),
            "run_command": command(config),
            "ann_command": None if against is None else command(read_config(against)),
            "config": config.published().flat(),
            "dataset": dataset or config.data.label,
            "images": len(data.test_labels[:images]),
            "mac_pj": mac_pj,
            "ac_pj": ac_pj,
            "networks": {
                role: cost_entry(trained[role], cost) | {"test_accuracy": accuracy[role], "ann": anns[role]}
                for role, cost in costs.items()
            },
        }
        for path in (*files, *([] if record is None else [record])):
            write_record(path, "energy", content)
