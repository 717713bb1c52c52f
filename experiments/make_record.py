"""Write the record of finished runs that differ only in their seed, `experiments/results/<name>.json`.

python experiments/make_record.py --name mnist --dataset MNIST --runs runs/mnist-0 runs/mnist-1 runs/mnist-2
"""

import sys
from pathlib import Path

from records.trainings import make_record

from snnkd_jax.cli.arguments import call
from snnkd_jax.files import write_json

RESULTS = Path(__file__).parent / "results"


def main(name: str, dataset: str, runs: list[Path], notes: str = "") -> None:
    """Write the record of finished runs that differ only in their seed.

    Args:
        name: Name of the record and its file.
        dataset: Name of the data set in the record, such as "CIFAR-10 (JPEG copy)".
        runs: Run directories, one per seed.
        notes: Remarks for the record.
    """
    record = make_record(name, runs, dataset, notes)
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


if __name__ == "__main__":
    sys.exit(call(main))
