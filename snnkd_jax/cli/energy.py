"""`snnkd energy RUN --against RUN2 --record FILE.json`; the definitions are those of `snnkd_jax.analysis.energy`."""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import tyro

from snnkd_jax.analysis.joules import AC_PJ, MAC_PJ, joules
from snnkd_jax.errors import InputError, check_count
from snnkd_jax.files import read_json
from snnkd_jax.runs.roles import Role

if TYPE_CHECKING:
    from snnkd_jax.data import Dataset
    from snnkd_jax.inference.trained import Trained


def energy(
    run: tyro.conf.Positional[Path],
    against: Path | None = None,
    converted: int | None = None,
    num_steps: int | None = None,
    images: int = 1000,
    batch_size: int = 100,
    dataset: str | None = None,
    mac_pj: float = MAC_PJ,
    ac_pj: float = AC_PJ,
    record: Path | None = None,
) -> None:
    """Operations of every network of a run per image, layer by layer, by NeuroBench's definition, and their energy.

    A student is set against the ANN of its architecture: the run's teacher, if it is that, or that of --against.
    RUN/energy.json keeps what was found, for the run's report.

    Args:
        run: Directory of a finished run.
        against: Directory of a run whose teacher is the ANN of the student's architecture, on the same data.
        converted: T of the run's teacher, converted into a spiking network, to be counted as well.
        num_steps: T of the students; None: what they were trained with.
        images: Test images that are counted, the first ones.
        batch_size: Images that are counted together.
        dataset: What the data are, in words, such as "CIFAR-10 (JPEG copy)"; None: the data set's name.
        mac_pj: Energy of a multiplication with accumulation, pJ.
        ac_pj: Energy of an accumulation, pJ.
        record: JSON file to write.
    """
    for name, value in (("images", images), ("batch_size", batch_size), ("num_steps", num_steps)):
        if value is not None:
            check_count(name, value)
    energy_of = functools.partial(joules, mac_pj=mac_pj, ac_pj=ac_pj)
    energy_of(0, 0)  # refuses wrong energies before anything is counted
    from snnkd_jax.analysis.costs import ann_of, cost_entry, measure
    from snnkd_jax.analysis.energy import summary
    from snnkd_jax.cli.arguments import command_line
    from snnkd_jax.inference.convert import convert
    from snnkd_jax.inference.trained import load
    from snnkd_jax.runs.command import command
    from snnkd_jax.runs.recipe import read_config
    from snnkd_jax.runs.record import write_record

    trained: dict[str, Trained] = {
        role: load(run, role) for role in get_args(Role) if (run / role / "network.json").is_file()
    }
    if not trained:
        raise InputError(f"{run} has no network that was trained to its end")
    config = read_config(run)
    accuracy = _tested(run)
    if against is not None:
        trained["ann"], accuracy["ann"] = load(against, "teacher"), _tested(against).get("teacher")
        if trained["ann"].dataset != config.data.dataset:
            found = trained["ann"].dataset
            raise InputError(f"against={against} is a run on {found}, not on {config.data.dataset}; name another")
    loaded = config.data.load()
    if num_steps is not None:
        for role in trained.keys() & {"student", "student_baseline"}:
            accuracy[role] = _accuracy(trained[role], loaded, num_steps)
            trained[role] = dataclasses.replace(trained[role], network=trained[role].with_steps(num_steps))
    if converted is not None:
        trained["converted"] = convert(load(run, "teacher"), loaded.train_images, converted)
        accuracy["converted"] = _accuracy(trained["converted"], loaded, converted)
    test = loaded.test_images[:images]
    costs = {role: measure(network, test, batch_size) for role, network in trained.items()}
    anns = {role: ann_of(role, costs) for role in costs}
    if against is not None and "ann" not in (anns[role] for role in costs if role != "ann"):
        raise InputError(f"against={against}: its teacher is of none of the architectures of {run}; name another")

    for role, cost in costs.items():
        print(f"\n{role}: {trained[role].title}\n{summary(cost, mac_pj, ac_pj)}")
        if cost.num_steps is None:
            continue
        total, dense = energy_of(cost.macs, cost.acs), energy_of(cost.dense_pass, 0)
        shares = f"{total / dense:.3f} (estimate: {energy_of(*cost.estimate) / dense:.3f})"
        print(f"{shares} of all operations of an ANN of this architecture")
        if (ann := anns[role]) is None:
            print("no trained ANN of this architecture was counted; --against RUN2 takes the teacher of another run")
        else:
            counted = energy_of(costs[ann].macs, costs[ann].acs)
            print(f"{total / counted:.3f} of those of the trained ANN of this architecture, {ann}, that are not zero")
    chosen = {"against": against and "ANN", "converted": converted, "num_steps": num_steps, "images": images}
    content = {
        "command": command_line("energy", "RUN", **chosen, mac_pj=mac_pj, ac_pj=ac_pj, dataset=dataset),
        "run_command": command(config),
        "ann_command": None if against is None else command(read_config(against)),
        "config": config.published().flat(),
        "dataset": dataset or config.data.dataset,
        "images": len(test),
        "mac_pj": mac_pj,
        "ac_pj": ac_pj,
        "networks": {
            role: cost_entry(trained[role], cost) | {"test_accuracy": accuracy.get(role), "ann": anns[role]}
            for role, cost in costs.items()
        },
    }
    for path in (run / "energy.json", *([] if record is None else [record])):
        write_record(path, "energy", content)


def _tested(run: Path) -> dict[str, float | None]:
    """Test accuracies of a run's result, by role."""
    return read_json(run / "result.json")["test_accuracy"] if (run / "result.json").is_file() else {}


def _accuracy(trained: "Trained", images: "Dataset", num_steps: int) -> float:
    """The test accuracy after so many steps."""
    from snnkd_jax.inference.predict import accuracy_by_step

    return float(accuracy_by_step(trained.logits_by_step(images.test_images, num_steps), images.test_labels)[-1])
