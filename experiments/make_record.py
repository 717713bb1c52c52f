"""Turn finished runs that differ in their seed into a record, `experiments/results/<name>.json`.

python experiments/make_record.py --name mnist --dataset MNIST --runs runs/mnist-0 runs/mnist-1 runs/mnist-2
"""

import sys
from pathlib import Path

from records.trainings import make_record

from snnkd_jax.cli.arguments import call
from snnkd_jax.files import write_json

RESULTS = Path(__file__).parent / "results"


def main(name: str, dataset: str, runs: list[Path], notes: str = "") -> None:
    """Write a record.

    Args:
        name: Of the record and its file.
        dataset: What the data are, in words, such as "CIFAR-10 (JPEG copy)".
        runs: Run directories, one a seed.
        notes: What else a reader should know.
    """
    record = make_record(name, runs, dataset, notes)
    RESULTS.mkdir(exist_ok=True)
    write_json(RESULTS / f"{name}.json", record)


if __name__ == "__main__":
    sys.exit(call(main))
