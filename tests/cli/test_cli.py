"""The command `snnkd`: what it explains, how it refuses, and what it does not import for either."""

import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from representative import slow

from snnkd_jax.cli import SUBCOMMANDS, parse_subcommand
from snnkd_jax.cli import main as snnkd
from snnkd_jax.cli.status import exit_status
from snnkd_jax.errors import InputError


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "snnkd_jax.cli", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_subcommands_are_listed(arguments, capsys):
    assert snnkd(arguments) == 0
    shown = capsys.readouterr().out
    for name in SUBCOMMANDS:
        assert re.search(f"^  {name} +[A-Z].+[.]$", shown, re.MULTILINE), name


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_explains_its_arguments(name):
    done = process(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: snnkd {name} ")


SCRIPT = str(Path(__file__).parents[2] / "experiments" / "cifar_distill.py")


@pytest.mark.parametrize(
    "command",
    [("-m", "snnkd_jax.cli", "--help"), ("-m", "snnkd_jax.cli", "report", "--help"), (SCRIPT, "--help")],
    ids=["all subcommands", "a short help", "one longer than a buffer"],
)
def test_a_closed_pipe_ends_a_command_without_a_word(command):
    """The reader of the output has gone before it is written, as after `| head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, *command], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_broken_pipe_other_than_stdout_is_an_error():
    def sent():
        raise BrokenPipeError("of a socket")

    with pytest.raises(BrokenPipeError, match="of a socket"):
        exit_status(sent)


@pytest.mark.parametrize(
    "streams",
    ["<&- >&- 2>&-", slow("2>/dev/full"), slow(">&-")],
)
def test_a_process_without_streams(tmp_path, streams):
    """As a daemon has none. A file does not get the descriptor of a closed one, so nothing is printed into it."""
    file = tmp_path / "file"
    program = f"""
import os, sys, warnings
from snnkd_jax.cli.status import exit_status
def command():
    with open({str(file)!r}, "w"):
        print("told")
        warnings.warn("lost")
        os.write(1, b"printed by a library")
sys.exit(exit_status(command))
"""
    done = subprocess.run(f"exec {shlex.join([sys.executable, '-c', program])} {streams}", shell=True, check=False)
    assert done.returncode == 0
    assert file.read_text() == ""


@pytest.mark.parametrize("columns", ["1", "0", slow("9"), slow("-5")])
def test_help_and_errors_in_a_narrow_terminal(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit):
        snnkd(["report", "--help"])
    assert "--out" in capsys.readouterr().out
    assert snnkd(["report", "RUN", "--colour", "red"]) == 2
    assert "--colour" in capsys.readouterr().err
    assert os.environ["COLUMNS"] == columns


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_an_unknown_flag_is_told_in_one_line(name, capsys):
    assert snnkd([name, "RUN", "--colour", "red"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert "--colour" in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["trian"], "subcommand 'trian' is unknown (did you mean train?); choose from train, predict,"),
        (["steps", "RUN"], "Missing from snnkd steps: --dataset"),
        (["steps", "RUN", "--dataset"], "Missing value for argument '--dataset'"),
        (["energy", "RUN", "--images", "ten"], "--images"),
        (["energy", "RUN", "--mac-pj", "0"], "mac_pj=0.0"),
        (["predict", "RUN", "image.png", "--role", "pupil"], "'pupil'"),
        (["noise"], "runs are missing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_told_in_one_line(arguments, told, capsys):
    assert snnkd(arguments) == 2
    shown = capsys.readouterr().err
    assert told in shown
    assert shown.count("\n") == 1


def test_jax_is_not_imported_before_arguments_are_right():
    program = f"""
import contextlib, sys
from snnkd_jax.cli import main
for name in {list(SUBCOMMANDS)}:
    with contextlib.suppress(SystemExit):
        main([name, "--help"])
    main([name, "RUN", "--colour", "red"])
sys.exit(any(name in sys.modules for name in ("jax", "flax")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_warnings_are_shown_as_before_afterwards(capsys):
    before = warnings.showwarning

    def warn():
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("too dark", stacklevel=1)
        raise InputError("too\nlate")

    assert exit_status(warn) == 2
    assert capsys.readouterr().err == "warning: too dark\nerror: too late\n"
    assert warnings.showwarning is before


def test_the_status_is_the_commands():
    def stopped():
        raise KeyboardInterrupt

    assert [exit_status(command) for command in (lambda: None, lambda: 1, stopped)] == [0, 1, 130]


@pytest.mark.parametrize(
    ("name", "arguments", "option"),
    [
        ("predict", ["~/run", "~/a.png"], "run"),
        ("noise", ["~/run"], "runs"),
        ("energy", ["run", "--record", "~/x.json"], "record"),
        ("export-nir", ["run", "--out", "~/x.nir"], "out"),
        ("report", ["~/a", "b"], "runs"),
    ],
)
def test_paths_of_every_command_are_expanded(monkeypatch, tmp_path, name, arguments, option):
    monkeypatch.setenv("HOME", str(tmp_path))
    value = parse_subcommand(name, arguments).keywords[option]
    paths = value if isinstance(value, list) else [value]
    assert paths[0].parent == tmp_path


def test_an_address_of_no_known_kind_is_refused_by_every_command(capsys):
    assert snnkd(["energy", "ftp://host/run"]) == 2
    assert "run='ftp:/host/run'" in capsys.readouterr().err
