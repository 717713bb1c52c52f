"""What the networks of a run cost for an image, layer by layer: operations by NeuroBench's definition, and energy.

    python experiments/energy.py RUN --record NAME

`snnkd_jax.analysis.energy` has the definitions. The student is set against the ANN of its architecture: the run's
teacher, if it is that, or the teacher of another run, --against RUN2. RUN/energy.json keeps what was found, for the
run's report.
"""

import dataclasses
import functools
import operator
import shlex
from pathlib import Path
from typing import Any, get_args

import jax
import tyro
from numpy.typing import NDArray

from snnkd_jax import data
from snnkd_jax.analysis.energy import AC_PJ, MAC_PJ, Cost, count, joules, same_architecture, summary
from snnkd_jax.errors import InputError, told_in_one_line
from snnkd_jax.files import read_json
from snnkd_jax.inference.convert import convert
from snnkd_jax.inference.predict import accuracy_by_step
from snnkd_jax.inference.trained import Role, Trained, load_trained
from snnkd_jax.runs.command import command
from snnkd_jax.runs.inputs import dataset_of
from snnkd_jax.runs.recipe import read_config
from snnkd_jax.runs.record import write_record

RESULTS = Path(__file__).parent / "results" / "energy"


def main(
    run: tyro.conf.Positional[Path],
    against: Path | None = None,
    converted: int | None = None,
    num_steps: int | None = None,
    images: int = 1000,
    batch_size: int = 100,
    dataset: str | None = None,
    mac_pj: float = MAC_PJ,
    ac_pj: float = AC_PJ,
    record: str | None = None,
) -> None:
    """Count the operations of every network of a run.

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
        record: Write experiments/results/energy/<record>.json.
    """
    for name, value in (("images", images), ("batch_size", batch_size), ("num_steps", num_steps)):
        if value is not None and value < 1:
            raise InputError(f"{name}={value!r} must be at least 1")
    energy = functools.partial(joules, mac_pj=mac_pj, ac_pj=ac_pj)
    energy(0, 0)  # refuses wrong energies before anything is counted
    trained: dict[str, Trained] = {
        role: load_trained(run, role) for role in get_args(Role) if (run / role / "network.json").is_file()
    }
    if not trained:
        raise InputError(f"{run} has no network that was trained to its end")
    if against is not None:
        trained["ann"] = load_trained(against, "teacher")
    config = read_config(run)
    if against is not None and trained["ann"].dataset != config.dataset:
        raise InputError(
            f"against={against} is a run on {trained['ann'].dataset}, not on {config.dataset}; name another"
        )
    loaded = dataset_of(config)
    accuracy = tested(run)
    if against is not None:
        accuracy["ann"] = tested(against).get("teacher")
    if num_steps is not None:
        for role in trained.keys() & {"student", "student_baseline"}:
            accuracy[role] = test_accuracy(trained[role], loaded, num_steps)
            trained[role] = dataclasses.replace(trained[role], network=trained[role].with_steps(num_steps))
    if converted is not None:
        trained["converted"] = convert(load_trained(run, "teacher"), loaded.train_images, converted)
        accuracy["converted"] = test_accuracy(trained["converted"], loaded, converted)
    test = loaded.test_images[:images]
    costs = {role: measure(network, test, batch_size) for role, network in trained.items()}
    anns = {role: ann_of(role, costs) for role in costs}
    if against is not None and "ann" not in (anns[role] for role in costs if role != "ann"):
        raise InputError(f"against={against}: its teacher is of none of the architectures of {run}; name another")

    for role, cost in costs.items():
        print(f"\n{role}: {trained[role].title}\n{summary(cost, mac_pj, ac_pj)}")
        if cost.num_steps is None:
            continue
        total, estimate, dense = energy(cost.macs, cost.acs), energy(*cost.estimate), energy(cost.dense_pass, 0)
        print(
            f"{total / dense:.3f} (estimate: {estimate / dense:.3f}) of all operations of an ANN of this architecture"
        )
        if (ann := anns[role]) is None:
            print("no trained ANN of this architecture was counted; --against RUN2 takes the teacher of another run")
        else:
            counted = energy(costs[ann].macs, costs[ann].acs)
            print(f"{total / counted:.3f} of those of the trained ANN of this architecture, {ann}, that are not zero")
    options = [] if against is None else ["--against", "ANN"]
    options += [] if converted is None else ["--converted", str(converted)]
    options += [] if num_steps is None else ["--num-steps", str(num_steps)]
    options += ["--images", str(images), "--mac-pj", str(mac_pj), "--ac-pj", str(ac_pj)]
    options += [] if dataset is None else ["--dataset", dataset]
    content = {
        "command": shlex.join(["python", "experiments/energy.py", "RUN", *options]),
        "run_command": command(config),
        "ann_command": None if against is None else command(read_config(against)),
        "config": dataclasses.asdict(config.published()),
        "dataset": dataset or config.dataset,
        "images": len(test),
        "mac_pj": mac_pj,
        "ac_pj": ac_pj,
        "networks": {
            role: entry(trained[role], cost) | {"test_accuracy": accuracy.get(role), "ann": anns[role]}
            for role, cost in costs.items()
        },
    }
    write_record(run, "energy", "energy", content)
    if record is not None:
        write_record(RESULTS, "energy", record, content)


def tested(run: Path) -> dict[str, float | None]:
    """The test accuracies that a run reported, by role."""
    return read_json(run / "result.json")["test_accuracy"] if (run / "result.json").is_file() else {}


def test_accuracy(trained: Trained, images: data.Dataset, num_steps: int) -> float:
    """The test accuracy after so many steps."""
    return float(accuracy_by_step(trained.logits_by_step(images.test_images, num_steps), images.test_labels)[-1])


def measure(trained: Trained, images: NDArray, batch_size: int) -> Cost:
    """The cost of all images, uint8 `[N, H, W, C]`."""
    normalise = jax.jit(trained.normalisation)
    batches = (images[i : i + batch_size] for i in range(0, len(images), batch_size))
    costs = (count(trained.network, trained.variables, normalise(batch)) for batch in batches)
    return functools.reduce(operator.add, costs)


def ann_of(role: str, costs: dict[str, Cost]) -> str | None:
    """The role of the ANN of the same architecture: a network itself if it is one, else rather that of --against."""
    for other in (role, *reversed(costs)):
        if costs[other].num_steps is None and same_architecture(costs[role], costs[other]):
            return other
    return None


def model(trained: Trained) -> dict[str, Any]:
    """Architecture, width and T."""
    return {"model": trained.model, "width": trained.config.width, "num_steps": trained.network.num_steps}


def entry(trained: Trained, cost: Cost) -> dict[str, Any]:
    """What the record says of a network; operations are those of an image, in the layers sums over all."""
    return model(trained) | {
        "macs": cost.macs,
        "acs": cost.acs,
        "dense": cost.dense,
        "dense_pass": cost.dense_pass,
        "estimate": cost.estimate,
        "footprint": cost.footprint,
        "connection_sparsity": cost.connection_sparsity,
        "activation_sparsity": cost.activation_sparsity,
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "operations": layer.operations,
                "steps": layer.steps,
                "input_rate": layer.input_rate,
                "effective": layer.effective / layer.images,
                "dense": layer.dense,
                "estimate": cost.layer_estimate(layer.name),
            }
            for layer in cost.layers.values()
        ],
    }


if __name__ == "__main__":
    with told_in_one_line():
        tyro.cli(main)
