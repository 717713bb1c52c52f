"""Turn finished runs that differ in their seed into a record, `experiments/results/<name>.json`.

python experiments/make_record.py --name mnist --dataset MNIST --runs runs/mnist-0 runs/mnist-1 runs/mnist-2
"""

import json
import sys
from pathlib import Path

import tyro

from snnkd_jax.errors import InputError
from snnkd_jax.records import make_record

RESULTS = Path(__file__).parent / "results"


def main(name: str, dataset: str, runs: list[Path], notes: str = "") -> int:
    """Write a record.

    Args:
        name: Of the record and its file.
        dataset: What the data are, in words, such as "CIFAR-10 (JPEG copy)".
        runs: Run directories, one a seed.
        notes: What else a reader should know.
    """
    try:
        record = make_record(name, runs, dataset, notes)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
