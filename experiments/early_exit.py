"""Speed of a trained student with early exit, compared with the same student at all of its time steps.

    python experiments/early_exit.py RUN --record NAME

The threshold is the lowest that loses at most --tolerance of accuracy on the validation split; speed and accuracy are
measured on the test set, in turns of ten batches; compilation is not counted.
"""

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from snnkd_jax.cli.arguments import call
from snnkd_jax.errors import InputError, check_count
from snnkd_jax.files import check_writable_file
from snnkd_jax.inference.predict import at_once, choose_threshold
from snnkd_jax.inference.trained import load
from snnkd_jax.runs.command import command
from snnkd_jax.runs.recipe import read_config
from snnkd_jax.runs.record import write_record

RESULTS = Path(__file__).parent / "results" / "speed"


def main(
    run: tyro.conf.Positional[Path],
    tolerance: float = 0.002,
    batch_size: int = 128,
    dataset: str | None = None,
    record: str | None = None,
) -> None:
    """Measure speed and accuracy of a student with early exit.

    Args:
        run: Directory of a finished run.
        tolerance: Accuracy that may be lost on the validation split, in [0, 1).
        batch_size: Images per batch at all time steps; with early exit it is up to 128.
        dataset: Name of the data set in the record, such as "CIFAR-10 (JPEG copy)"; None: that of the run.
        record: Write experiments/results/speed/<record>.json.
    """
    file = None if record is None else RESULTS / f"{record}.json"
    check_writable_file("record", file)
    if not 0 <= tolerance < 1:
        raise InputError(f"tolerance={tolerance!r} must be at least 0 and below 1")
    check_count("batch_size", batch_size)
    config = read_config(run)
    images = config.load_data()
    student = load(run)
    folded = student.folded()  # as with early exit
    at_full = at_once(folded.network, folded.normalisation)

    def classes_at_full(pixels: NDArray) -> NDArray:
        batches = [pixels[i : i + batch_size] for i in range(0, len(pixels), batch_size)]
        return np.concatenate([np.asarray(at_full(folded.variables, x)[0]).argmax(-1) for x in batches])

    _, validation = images.split(config.run.seed)
    logits = student.logits_by_step(validation["images"], config.student.num_steps)
    threshold, expected_steps = choose_threshold(logits, validation["labels"], tolerance)

    correct, steps, seconds = [], [], []
    for again in range(2):  # the first pass compiles for every size of the batch
        correct, steps, seconds = [], [], []
        for i in range(0, len(images.test_images), 10 * batch_size):
            pixels, labels = (x[i : i + 10 * batch_size] for x in (images.test_images, images.test_labels))
            start = time.perf_counter()
            full = classes_at_full(pixels)
            middle = time.perf_counter()
            early = student.predict(pixels, threshold=threshold)
            seconds.append((middle - start, time.perf_counter() - middle))
            correct.append((full == labels, early.classes == labels))
            steps.append(early.steps)
        print(f"pass {again + 1} of 2: {np.concatenate(steps).mean():.2f} steps", file=sys.stderr)
    accuracy = [float(np.concatenate(hits).mean()) for hits in zip(*correct, strict=True)]
    at_full_seconds, early_seconds = (sum(s) for s in zip(*seconds, strict=True))
    n = len(images.test_images)
    result: dict[str, Any] = {
        "num_steps": config.student.num_steps,
        "threshold": threshold,
        "accuracy": {"full": accuracy[0], "early": accuracy[1]},
        "mean_steps": {"validation": expected_steps, "test": float(np.concatenate(steps).mean())},
        "images_per_second": {"full": n / at_full_seconds, "early": n / early_seconds},
        "speed_up": at_full_seconds / early_seconds,
    }
    print(json.dumps(result, indent=2))
    if file is not None:
        result["config"] = config.published().flat()
        options = ["--tolerance", f"{tolerance:g}", "--batch-size", str(batch_size)]
        options += [] if dataset is None else ["--dataset", dataset]
        result["command"] = shlex.join(["python", "experiments/early_exit.py", "RUN", *options])
        result["dataset"] = dataset or config.data.dataset
        result["run_command"] = command(config)
        result |= {"batch_size": batch_size, "tolerance": tolerance}
        write_record(file, "early-exit", result)


if __name__ == "__main__":
    sys.exit(call(main))
