"""Commands of records and pages: the parsers understand each as it stands, RUN and the like included."""

import importlib
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from representative import representatives

from snnkd_jax.cli import parse_subcommand
from snnkd_jax.cli.arguments import parse
from snnkd_jax.cli.train import train
from snnkd_jax.errors import InputError

ROOT = Path(__file__).parents[2]
RECORDS = sorted((ROOT / "experiments" / "results").rglob("*.json"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TRAINING = ("cifar_distill", "imagenet_distill", "spikingjelly_run")
"""Scripts that take the arguments of `snnkd train`."""

NO_ARGUMENTS = ("make_tables", "make_figures")


def understand(command: str) -> None:
    """Parses a command line without doing what it says; raises `InputError`, or an error of what is not there."""
    program, *words = [word for word in shlex.split(command) if word != "--help"]
    if program == "snnkd":
        parse_subcommand(words[0], words[1:])
        return
    assert program == "python"
    script = re.fullmatch(r"experiments/(\w+)\.py", words[0])
    assert script is not None, command
    assert (ROOT / words[0]).is_file()
    if script[1] in NO_ARGUMENTS:
        assert not words[1:]
    else:
        parse(train if script[1] in TRAINING else importlib.import_module(script[1]).main, words[1:])


def of_record(value: Any) -> Iterator[str]:
    """The commands in a record, each part of a chain for itself."""
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from of_record(inner)
    if isinstance(value, str) and re.match(r"(snnkd|python) ", value):
        yield from value.split(" && ")


def of_page(text: str) -> Iterator[str]:
    """The commands in the blocks of shell of a page, with or without the folder of the program."""
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.search(r"(?:^|bin/|\s)((?:snnkd [a-z]|python experiments/).*)", line):
                command = re.sub(r"\s(#|&).*", "", found[1])
                # Some stand within quotes, which end after them.
                yield command.removesuffix('"') if command.count('"') % 2 else command


@pytest.mark.parametrize(
    "path", representatives(RECORDS, RECORDS[::6].__contains__), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_commands_of_records(path):
    for command in of_record(json.loads(path.read_text())):
        understand(command)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_commands_of_pages(path):
    for command in of_page(path.read_text()):
        understand(command)


def test_commands_of_the_script_for_a_gpu():
    """Printed instead of run; its benchmarks leave a third of ten minutes to the training and to what they overrun."""
    command, environment = ["sh", str(ROOT / "experiments" / "gpu.sh")], os.environ | {"PYTHON": "echo"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    commands = done.stdout.splitlines()
    for arguments in commands:
        understand(f"python {arguments}")
    assert [word.split()[0] for word in commands] == [*["experiments/benchmark.py"] * 2, "experiments/cifar_distill.py"]
    minutes = [float(found) for found in re.findall(r"--minutes (\S+)", done.stdout)]
    assert len(minutes) == 2
    assert sum(minutes) < 7


def test_commands_are_found_and_wrong_ones_refused():
    assert len([command for path in RECORDS for command in of_record(json.loads(path.read_text()))]) > 80
    assert len([command for path in PAGES for command in of_page(path.read_text())]) > 35
    for command in ("snnkd train --colour red", "snnkd tarin", "python experiments/knobs.py --seed 1"):
        with pytest.raises(InputError):
            understand(command)
