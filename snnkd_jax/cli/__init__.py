"""The command `snnkd`: one file per subcommand, imported when it is called.

The file of a subcommand has a function of its name, whose parameters and docstring are the arguments and the help. JAX
and the modules that need it are imported in that function, so that `--help` and wrong arguments are answered without.
"""

import importlib
import sys
from collections.abc import Callable, Sequence

from snnkd_jax.cli.status import exit_status
from snnkd_jax.errors import check_choice

SUBCOMMANDS = {
    "train": "distil a spiking student from an ANN teacher, or resume a run",
    "predict": "classify image files with a trained network",
    "report": "write the report of a run, or compare several runs",
    "steps": "accuracy of students at every T, and with early exit",
    "noise": "accuracy under 14 kinds of noise",
    "energy": "operations and energy per image, layer by layer",
    "convert": "convert trained ANNs into spiking networks, without training",
    "export-nir": "export a student to NIR, for neuromorphic tools",
    "export-stablehlo": "export a network to StableHLO, which JAX runs without this package",
    "plan": "time and memory of a training step on accelerators that you do not have",
}
USAGE = "\n".join(
    [
        "usage: snnkd SUBCOMMAND [ARGUMENTS]\n",
        *(f"  {name:18}{text}" for name, text in SUBCOMMANDS.items()),
        "\nsnnkd SUBCOMMAND --help explains its arguments.",
    ]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns the exit status: 2, after one line on stderr, for wrong input."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    return exit_status(lambda: print(USAGE) if name in ("-h", "--help") else parse_subcommand(name, rest)())


def parse_subcommand(name: str, arguments: Sequence[str]) -> Callable[[], int | None]:
    """A subcommand with its arguments bound, not yet called; raises `InputError` if there is none of that name."""
    check_choice("subcommand", name, SUBCOMMANDS)
    from snnkd_jax.cli.arguments import parse

    identifier = name.replace("-", "_")
    subcommand = getattr(importlib.import_module(f"snnkd_jax.cli.{identifier}"), identifier)
    return parse(subcommand, arguments, f"snnkd {name}")
