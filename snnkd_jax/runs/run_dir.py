"""The run directory: what a training leaves on disk, and how it is found to be the same one.

config.json      the configuration, versions, hardware and commit with which the run was started, and digests of the
                 data set and of the teacher of another run
metrics.jsonl    one line per epoch and network
teacher/, student_baseline/, student/    checkpoints, and in the end `network.json`: what they are of, sealed
compilation-cache/    compiled programs, which a resumed run need not compile again; may be deleted
profile/         traces, if they were asked for
student/observation.npz    what the report shows of the student, recorded at the end
noise.json, energy.json    what `snnkd noise` and `snnkd energy` found, if they were run
result.json      the comparison; written at the end
report.html      how the run went and what its student does, to be looked at; written last

A run of a configuration (`experiment.run`) has it under "config" in config.json; a training of objects (`fit`) has
under "fit" what they are, functions by a title and a digest.
"""

import contextlib
import errno
import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snnkd_jax.digest import sha256
from snnkd_jax.errors import InputError
from snnkd_jax.files import read_json, write_json
from snnkd_jax.parallel.hosts import is_host0
from snnkd_jax.runs.config import Config, default_config
from snnkd_jax.runs.provenance import origin
from snnkd_jax.runs.recipe import BOOKKEEPING

_NOT_IDENTITY = (*BOOKKEEPING, "run_dir", "store_teacher")
"""A run may change these without becoming another."""

_MADE_AFTER = ("teacher", "student_baseline", "student", "metrics.jsonl", "result.json", "report.html")
"""What a run directory has only if it has `config.json`."""

_IN_NAME = ("dataset", "student", "preset", "num_steps", "seed")


def run_directory(config: Config) -> Path:
    """The run directory that was given, or one named after the main options, with a digest of others if not default."""
    if config.run.run_dir is not None:
        return Path(config.run.run_dir)
    options = config.flat()
    default = default_config(config.data.dataset).flat()
    hidden = (*_IN_NAME, *_NOT_IDENTITY)
    rest = {name: value for name, value in options.items() if value != default[name] and name not in hidden}
    name = "{dataset}-{student}-{preset}-t{num_steps}-seed{seed}".format(**options)
    digest = f"-{sha256(json.dumps(rest, sort_keys=True).encode())[:6]}" if rest else ""
    return Path("runs") / f"{name}{digest}"


def open_run_dir(directory: Path, what: dict[str, Any], contents: dict[str, Any]) -> None:
    """Makes the run directory, or finds that it holds the same run.

    `what` is `{"config": options}` or `{"fit": options}`; `contents` are further entries of config.json that must be
    the same. Raises `InputError` if it cannot be written, or holds something else or another run.
    """
    saved = directory / "config.json"
    ((kind, options),) = what.items()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise InputError(f"run_dir {directory} cannot be written ({error.strerror}); name another") from error
    if not saved.exists():
        if not is_host0():
            raise InputError(f"run_dir {directory} is not where the first process made it; all hosts must share it")
        if found := [name for name in _MADE_AFTER if (directory / name).exists()]:
            raise InputError(f"run_dir {directory} has {', '.join(found)} but no config.json; name another")
        write_json(saved, {kind: options, **contents, **origin()})
    started = read_json(saved)
    if not isinstance(started.get(kind), dict):
        raise InputError(f"{saved} is not a configuration of this program; name another run_dir")
    _check_same(directory, started[kind], json.loads(json.dumps(options)))
    now = origin()
    differing = [name for name in ("versions", "commit") if started.get(name) != now[name]]
    traced_otherwise = any(started.get("versions", {}).get(x) != now["versions"][x] for x in ("jax", "flax", "optax"))
    for name, value in contents.items():
        # Older runs have no digest, and another version may trace the same function otherwise.
        if started.get(name, value) != value and not (name == "digests" and traced_otherwise):
            raise InputError(
                f"run_dir {directory} was started with {_different(name, started[name], value)}; name another run_dir"
            )
    if differing:
        warnings.warn(f"run_dir {directory} was started with other {' and '.join(differing)}", stacklevel=2)


def _different(name: str, old: Any, new: Any) -> str:
    if name == "digests":
        return f"another {' and '.join(part for part in new if old.get(part) != new[part])} of the same name"
    return {
        "data_sha256": "other images or labels than the data set has now",
        "teacher_sha256": "another teacher than is given now",
    }[name]


@contextlib.contextmanager
def report_disk_full(directory: Path) -> Iterator[None]:
    """Raises `InputError`, which names the directory, where writing fails because the disk is full."""
    full = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT)]
    try:
        yield
    except Exception as error:  # each library has its own, with these words in it
        cause: BaseException | None = error
        while cause is not None and not any(words in str(cause) for words in full):
            cause = cause.__cause__ or cause.__context__
        if cause is None or isinstance(error, InputError):
            raise
        raise InputError(
            f"run_dir {directory}: no space is left on its disk; make some, and run the same command to resume from "
            "the last checkpoint"
        ) from error


def _check_same(directory: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if "preset" in new:  # a run that is older than an option was run with its default
        old = json.loads(json.dumps(default_config(new["dataset"]).flat())) | old
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


def content_digests(data: bytes, teacher: bytes | None = None) -> dict[str, str | None]:
    """Entries of config.json: digests of the data set's identity, and of the weights of a teacher of another run."""
    return {"data_sha256": sha256(data), "teacher_sha256": None if teacher is None else sha256(teacher)}
