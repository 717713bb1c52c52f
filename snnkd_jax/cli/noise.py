"""`snnkd noise RUN [RUN ...] [--baseline RUN ...] --record FILE.json`; see `snnkd_jax.analysis.robustness`."""

import functools
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from snnkd_jax.cli.arguments import Dataset, Notes, Out, Record, Runs, command_line
from snnkd_jax.errors import InputError
from snnkd_jax.files import check_writable_file
from snnkd_jax.runs.roles import NETWORKS


def noise(
    runs: Runs,
    baseline: tuple[Path, ...] = (),
    images: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    dataset: Dataset = None,
    notes: Notes = "",
    out: Out = None,
    record: Record = None,
) -> None:
    """Evaluate the accuracy under 14 kinds of noise.

    Teacher, student without KD and student with KD get the same noise; kinds that the students were trained on
    (--student-noise) are marked. The result of each run is also written to RUN/noise.json, for its report.

    Args:
        baseline: Runs of the same seeds without distillation, whose student is the student without KD.
        images: Number of test images, evenly spaced; None: all.
        seed: Random seed of the noise.
        batch_size: Images per batch, a multiple of the number of devices.
    """
    from snnkd_jax.analysis.robustness import LEVELS, evaluate_noise
    from snnkd_jax.inference.trained import load
    from snnkd_jax.parallel.compiler import compilation_cache
    from snnkd_jax.report.noise import in_words, noise_table, summarise
    from snnkd_jax.runs.command import command
    from snnkd_jax.runs.networks import find_networks
    from snnkd_jax.runs.recipe import SEED, seeds_of_one_recipe
    from snnkd_jax.runs.record import result_files, write_record

    configs, networks = find_networks(runs, list(baseline))
    if configs[0].teacher.sees_images:
        print("teacher: it sees images, not events, and is left out", file=sys.stderr)
        networks = {role: directories for role, directories in networks.items() if role != "teacher"}
    check_writable_file("record", record)
    with result_files([run for _, run in seeds_of_one_recipe("runs", runs)], out, "noise.json") as files:
        test = configs[0].load_data()
        n = len(test.test_labels)
        if images is not None and not 1 <= images <= n:
            raise InputError(f"images={images!r} must be 1 to {n}, the number of test images")
        index = np.arange(n) if images is None else np.arange(images) * n // images
        data = test.test_images[index], test.test_labels[index]

        @functools.cache  # a teacher shared by several runs is measured once
        def measure(role: str, directory: Path) -> Any:
            print(f"{NETWORKS[role]}: {directory}", file=sys.stderr)
            network = load(directory.parent, directory.name)  # pyright: ignore[reportArgumentType] a role
            return evaluate_noise(network, *data, seed, batch_size=batch_size, index=index)

        # Networks of a role are the same program, but each is loaded as a module of its own and compiled again.
        with tempfile.TemporaryDirectory() as cache, compilation_cache(Path(cache)):
            reports = {role: [measure(role, found) for found in directories] for role, directories in networks.items()}
        shared = {role for role, directories in networks.items() if len(set(directories)) == 1}
        taught = configs[0].data.noise()
        trained_on = () if taught is None else taught.kinds
        result = summarise({role: r[:1] if role in shared else r for role, r in reports.items()}, trained_on)
        print(noise_table(result), in_words(result), sep="\n")
        words = ["noise", "RUN", "...", *(["--baseline", "RUN", "..."] if baseline else [])]
        settings = {
            "command": command_line(*words, images=images, seed=seed, batch_size=batch_size, dataset=dataset),
            "noise_seed": seed,
            "images": len(index),
        }
        for i, file in enumerate(files):
            of_run = summarise({role: [found[i]] for role, found in reports.items()}, trained_on)
            write_record(file, "noise", of_run | settings, versions=["pillow"])
        if record is not None:
            content = settings | {
                "run_command": command(configs[0]),
                "baseline_command": command(seeds_of_one_recipe("baseline", baseline)[0][0]) if baseline else None,
                "dataset": configs[0].data.label if dataset is None else dataset,
                "seeds": [config.run.seed for config in configs],
                "levels": {kind: list(strengths) for kind, strengths in LEVELS.items()},
                "config": {k: v for k, v in configs[0].published().flat().items() if k not in SEED},
                "notes": notes,
            }
            write_record(record, "noise", result | content, versions=["pillow"])
