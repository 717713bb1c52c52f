"""The command `snnkd`: one file per subcommand, imported when it is called.

The file of a subcommand has a function of its name, whose parameters and docstring are the arguments and the help. It
imports JAX and what needs it within that function: `--help` and wrong arguments are answered without.
"""

import importlib
import sys
from collections.abc import Callable, Sequence

from snnkd_jax.cli.status import exit_status
from snnkd_jax.errors import check_choice

SUBCOMMANDS = {
    "train": "distil a spiking student from a teacher, or resume",
    "predict": "classify image files with a trained network",
    "report": "write the report of a run, or compare several",
    "steps": "accuracy of students by the first 1, 2, ... time steps, and with early exit",
    "noise": "accuracy under 14 kinds of noise",
    "energy": "operations and energy per image, layer by layer",
    "convert": "convert trained teachers into spiking networks, without training",
    "export-nir": "write a student as a file of NIR, for neuromorphic tools",
    "export-stablehlo": "write a network as StableHLO, which JAX runs without this package",
    "plan": "what a training step needs on chips that are not there",
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
    return exit_status(lambda: print(USAGE) if name in ("-h", "--help") else parsed(name, rest)())


def parsed(name: str, arguments: Sequence[str]) -> Callable[[], int | None]:
    """A subcommand with its arguments, not yet called; raises `InputError` if there is none of that name."""
    check_choice("subcommand", name, SUBCOMMANDS)
    from snnkd_jax.cli.arguments import bound

    identifier = name.replace("-", "_")
    subcommand = getattr(importlib.import_module(f"snnkd_jax.cli.{identifier}"), identifier)
    return bound(subcommand, arguments, f"snnkd {name}")
