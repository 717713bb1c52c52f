"""`snnkd noise RUN [RUN ...] [--baseline RUN ...] --record FILE.json`; see `snnkd_jax.analysis.robustness`."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import tyro

from snnkd_jax.errors import InputError


def noise(
    runs: tyro.conf.Positional[list[Path]],
    baseline: tuple[Path, ...] = (),
    images: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    dataset: str | None = None,
    notes: str = "",
    record: Path | None = None,
) -> None:
    """Accuracy under 14 kinds of noise: teacher, student without KD and student with it, at the same draws.

    RUN/noise.json keeps what was found of a run, for its report.

    Args:
        runs: Directories of finished runs that differ in their seed only.
        baseline: Runs of the same seeds without distillation: their student counts as the student without KD.
        images: Use so many test images, spread evenly; None: all.
        seed: Of the noise.
        batch_size: Images that are classified together; a multiple of the number of devices.
        dataset: What the data are, in words, such as "CIFAR-10 (JPEG copy)"; None: the data set's name.
        notes: What else a reader of the record should know.
        record: JSON file to write.
    """
    import numpy as np

    from snnkd_jax.analysis.robustness import LEVELS, evaluate_noise
    from snnkd_jax.cli.arguments import command_line
    from snnkd_jax.inference.trained import load
    from snnkd_jax.parallel.compiler import compilation_cache
    from snnkd_jax.report.noise import in_words, noise_table, summarise
    from snnkd_jax.runs.command import command
    from snnkd_jax.runs.networks import find_networks
    from snnkd_jax.runs.recipe import SEED, seeds_of_one_recipe
    from snnkd_jax.runs.record import write_record
    from snnkd_jax.runs.roles import NETWORKS

    configs, networks = find_networks(runs, list(baseline))
    test = configs[0].data.load()
    n = len(test.test_labels)
    if images is not None and not 1 <= images <= n:
        raise InputError(f"images={images!r} must be 1 to {n}, the number of test images")
    index = np.arange(n) if images is None else np.arange(images) * n // images
    reports: dict[str, list[Any]] = {}
    done: dict[Path, Any] = {}  # a teacher that several runs share is measured once
    # The networks of a role are the same program, and each is loaded as a module of its own.
    with tempfile.TemporaryDirectory() as cache, compilation_cache(Path(cache)):
        for role, directories in networks.items():
            for directory in directories:
                if directory not in done:
                    print(f"{NETWORKS[role]}: {directory}", file=sys.stderr)
                    done[directory] = evaluate_noise(
                        load(directory.parent, directory.name),  # pyright: ignore[reportArgumentType] a role
                        test.test_images[index],
                        test.test_labels[index],
                        seed,
                        batch_size=batch_size,
                        index=index,
                    )
                reports.setdefault(role, []).append(done[directory])
    of_one = {role for role, directories in networks.items() if len(set(directories)) == 1}
    result = summarise({role: found[:1] if role in of_one else found for role, found in reports.items()})
    print(noise_table(result), in_words(result), sep="\n")
    words = ["noise", "RUN", "...", *(["--baseline", "RUN", "..."] if baseline else [])]
    of_noise = {
        "command": command_line(*words, images=images, seed=seed, batch_size=batch_size, dataset=dataset),
        "noise_seed": seed,
        "images": len(index),
    }
    for i, (_, run) in enumerate(seeds_of_one_recipe("runs", runs)):
        of_run = summarise({role: [found[i]] for role, found in reports.items()})
        write_record(run / "noise.json", "noise", of_run | of_noise, versions=["pillow"])
    if record is not None:
        content = of_noise | {
            "run_command": command(configs[0]),
            "baseline_command": command(seeds_of_one_recipe("baseline", baseline)[0][0]) if baseline else None,
            "dataset": configs[0].data.dataset if dataset is None else dataset,
            "seeds": [config.run.seed for config in configs],
            "levels": {kind: list(strengths) for kind, strengths in LEVELS.items()},
            "config": {k: v for k, v in configs[0].published().flat().items() if k not in SEED},
            "notes": notes,
        }
        write_record(record, "noise", result | content, versions=["pillow"])
