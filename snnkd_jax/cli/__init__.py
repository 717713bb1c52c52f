"""The command `snnkd`: one file per subcommand.

The file of a subcommand has a function of its name, whose parameters and docstring are the arguments and the help. JAX
and the modules that need it are imported in that function, so that `--help` and wrong arguments are answered without.
"""

import importlib
import sys
from collections.abc import Callable, Sequence

from snnkd_jax.cli.status import exit_status
from snnkd_jax.errors import check_choice

SUBCOMMANDS = ("train", "predict", "report", "steps", "noise", "energy")
SUBCOMMANDS += ("convert", "export-nir", "export-stablehlo", "plan")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns the exit status: 2, after one line on stderr, for wrong input."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    return exit_status(lambda: print(usage()) if name in ("-h", "--help") else parse_subcommand(name, rest)())


def usage() -> str:
    """The help of `snnkd`, with the first line of the docstring of each subcommand."""
    lines = (f"  {name:18}{(_function(name).__doc__ or '').splitlines()[0]}" for name in SUBCOMMANDS)
    head, end = "usage: snnkd SUBCOMMAND [ARGUMENTS]\n", "\nsnnkd SUBCOMMAND --help explains its arguments."
    return "\n".join([head, *lines, end])


def parse_subcommand(name: str, arguments: Sequence[str]) -> Callable[[], int | None]:
    """A subcommand with its arguments bound, not yet called; raises `InputError` if there is none of that name."""
    check_choice("subcommand", name, SUBCOMMANDS)
    from snnkd_jax.cli.arguments import parse

    return parse(_function(name), arguments, f"snnkd {name}")


def _function(name: str) -> Callable[..., int | None]:
    identifier = name.replace("-", "_")
    return getattr(importlib.import_module(f"snnkd_jax.cli.{identifier}"), identifier)
