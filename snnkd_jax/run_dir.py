"""The run directory: what a run leaves on disk, and how it is found to be the same run.

config.json      the configuration, versions, hardware and commit with which the run was started
metrics.jsonl    one line for each epoch of each network
teacher/, student_baseline/, student/    checkpoints, and in the end `network.json`: what they are of
compilation-cache/    compiled programs, which a resumed run need not compile again; may be deleted
profile/         traces, if they were asked for
student/observation.npz    what the report shows of the student, recorded at the end
noise.json, energy.json    what experiments/robustness.py and experiments/energy.py found, if they were run
result.json      the comparison; written at the end
report.html      how the run went and what its student does, to be looked at; written last
"""

import dataclasses
import json
import shlex
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from snnkd_jax import provenance
from snnkd_jax.config import Config, default_config
from snnkd_jax.errors import InputError

# A run may be moved, traced, and may keep more or fewer checkpoints, without becoming another run.
_NOT_IDENTITY = ("run_dir", "keep_checkpoints", "profile")


def run_directory(config: Config) -> Path:
    """The run directory that was given, or one named after what distinguishes most runs."""
    name = f"{config.dataset}-{config.student}-{config.preset}-t{config.num_steps}-seed{config.seed}"
    return Path("runs") / name if config.run_dir is None else Path(config.run_dir)


def open_run_dir(directory: Path, config: Config) -> None:
    """Makes the run directory, or finds that it holds the same run.

    Raises `InputError` if it cannot be written, or holds a run of another configuration.
    """
    saved = directory / "config.json"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise InputError(f"run_dir {directory} cannot be written ({error.strerror}); name another") from error
    if not saved.exists():
        if found := [name for name in ("teacher", "student_baseline", "student") if (directory / name).exists()]:
            raise InputError(f"run_dir {directory} has {', '.join(found)} but no config.json; name another")
        write_json(saved, {"config": dataclasses.asdict(config), **origin()})
    started = read_json(saved)
    if not isinstance(started.get("config"), dict):
        raise InputError(f"{saved} is not a configuration of this program; name another run_dir")
    _check_same(directory, started["config"], json.loads(json.dumps(dataclasses.asdict(config))))
    now = origin()
    if differing := [name for name in ("versions", "commit") if started.get(name) != now[name]]:
        warnings.warn(f"run_dir {directory} was started with other {' and '.join(differing)}", stacklevel=2)


def _check_same(directory: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    default = json.loads(json.dumps(dataclasses.asdict(default_config(str(new["dataset"])))))
    old = default | old  # a run that is older than an option was run with its default
    names = sorted((old.keys() | new.keys()) - set(_NOT_IDENTITY))
    if differing := [name for name in names if old.get(name) != new.get(name)]:
        changes = ", ".join(f"{name} (was {old.get(name)!r}, is {new.get(name)!r})" for name in differing)
        raise InputError(f"run_dir {directory} holds another run; {changes}: name another run_dir, or the same values")


def teacher_directory(path: Path) -> Path:
    """The directory with `network.json`: a run's teacher, or one named directly."""
    for directory in (path / "teacher", path):
        if (directory / "network.json").is_file():
            return directory
    raise InputError(f"teacher_checkpoint {path} is not a run directory with a trained teacher (no network.json)")


def check_network(directory: Path, wanted: dict[str, Any]) -> None:
    """Raises `InputError`, with the differences, unless `network.json` says what is `wanted`."""
    # What networks are that are older than the choice.
    found = {"levels": None, "dtype": "float32"} | read_json(directory / "network.json")
    wanted = json.loads(json.dumps(wanted))
    if found.keys() != wanted.keys():
        raise InputError(f"teacher_checkpoint {directory}: its network.json is damaged")
    differing = [name for name in wanted if found[name] != wanted[name]]
    # Names and pixel statistics follow from the data set; to list them would hide what differs.
    if shown := [n for n in differing if n not in ("class_names", "normalisation")] or differing:
        changes = ", ".join(f"{name} is {found[name]!r}, not {wanted[name]!r}" for name in shown)
        raise InputError(f"teacher_checkpoint {directory} is of another network: {changes}")


def origin() -> dict[str, Any]:
    """What a result rests on: command, versions, hardware and commit."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "versions": provenance.versions(),
        "hardware": provenance.hardware(),
        "commit": provenance.commit(),
    }


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises `InputError` if it cannot be read or is something else."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object")
    return value


def write_json(path: Path, value: Any) -> None:
    """Replaces the file in one step, so that a crash leaves the old one or the new one."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    partial.replace(path)
