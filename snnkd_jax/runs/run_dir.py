"""The run directory: the files of a training, and the check that a resumed run is the same one.

config.json      configuration and provenance of the start, digests of the data set and of another run's teacher
metrics.jsonl    one line per epoch and network
teacher/, student_baseline/, student/    checkpoints, and `manifest.json`, which lists all that is read from there
lock.json        the process that writes here, while it does
compilation-cache/    compiled programs, for resuming; may be deleted
profile/         traces of --profile
student/observation.npz    recordings of the student for the report
noise.json, energy.json    results of `snnkd noise` and `snnkd energy`
result.json      the comparison of the networks; written at the end
result-60-epochs.json    the result before the run was extended
report.html      the report; written last

config.json has the configuration of `experiment.run` under "config", and the arguments of `fit` under "fit", functions
by title and digest. Its "id", which manifests and result.json repeat, tells the files of a run from those of another;
"extended" has what the options were before each extension.
"""

import contextlib
import errno
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from snnkd_jax.digest import sha256
from snnkd_jax.errors import InputError
from snnkd_jax.files import as_path, read_sealed, seal_of, write_atomically, write_sealed
from snnkd_jax.parallel.hosts import is_host0
from snnkd_jax.runs.config import Config, default_config
from snnkd_jax.runs.provenance import numerics, origin
from snnkd_jax.runs.recipe import BOOKKEEPING
from snnkd_jax.training.manifest import is_trained

_MAY_CHANGE = (*BOOKKEEPING, "run_dir", "store_teacher")
"""Options that may change when a run is resumed."""

_SCHEDULE = ("learning_rate", "base_batch_size", "warmup_epochs", "schedule", "momentum", "weight_decay")
"""Options that may change when a finished run is extended."""

_AFTER_CONFIG = ("teacher", "student_baseline", "student", "metrics.jsonl", "result.json", "report.html")
"""Entries of a run directory that are written after `config.json`."""

_IN_NAME = ("dataset", "student", "preset", "num_steps", "seed")


def run_directory(config: Config) -> Path:
    """The given run directory, or one named after the main options and a digest of the others that are not default."""
    if config.run.run_dir is not None:
        return as_path("run_dir", config.run.run_dir)
    options = config.flat()
    default = default_config(config.data.dataset).flat()
    others = [name for name in options if name not in (*_IN_NAME, *_MAY_CHANGE, "extend")]
    rest = {name: options[name] for name in others if options[name] != default[name]}
    options |= {"dataset": config.data.label.replace(":", "-")}
    name = "{dataset}-{student}-{preset}-t{num_steps}-seed{seed}".format(**options)
    digest = f"-{sha256(json.dumps(rest, sort_keys=True).encode())[:6]}" if rest else ""
    return Path("runs") / f"{name}{digest}"


def open_run_dir(directory: Path, what: dict[str, Any], contents: dict[str, Any]) -> None:
    """Creates the run directory, or checks that it holds the same run.

    `what` is `{"config": options}` or `{"fit": options}`; `contents` are further entries of config.json that must be
    the same. Raises `InputError` if it cannot be written, or holds something else or another run.
    """
    saved = directory / "config.json"
    contents = {**contents, "numerics": numerics()}
    ((kind, options),) = what.items()
    if not saved.exists():
        if not is_host0():
            raise InputError(f"run_dir {directory} is not the first process's directory; all hosts must share it")
        if found := [name for name in _AFTER_CONFIG if (directory / name).exists()]:
            raise InputError(f"run_dir {directory} has {', '.join(found)} but no config.json; name another")
        content = json.loads(json.dumps({kind: options, **contents, **origin()}))
        write_sealed(saved, {"id": seal_of(content), **content})
    started, options = read_sealed(saved), json.loads(json.dumps(options))
    if not isinstance(started.get(kind), dict):
        raise InputError(f"{saved} is not a configuration of this program; name another run_dir")
    extends = options.get("extend", 0) > started[kind].get("extend", 0)
    _check_same_options(directory, started[kind], options, ("extend", *_SCHEDULE) if extends else ())
    now = origin()
    _check_same_contents(directory, started, contents, now["versions"], extends)
    if differing := [name for name in ("versions", "commit") if started.get(name) != now[name]]:
        warnings.warn(f"run_dir {directory} was started with other {' and '.join(differing)}", stacklevel=2)
    if flags := _changes(started.get("compiler_flags", now["compiler_flags"]), now["compiler_flags"]):
        warnings.warn(
            f"run_dir {directory} was started with other compiler flags, which round otherwise; {flags}", stacklevel=2
        )
    if extends:
        _extend(directory, started, kind, options, contents)


def epochs_extended(directory: Path, extend: int) -> int:
    """The epochs by which a run was extended before the extension to `extend` epochs, which is to start or to resume.

    Raises `InputError` if there is no finished run to extend, or if it has been extended by more.
    """
    if not extend:
        return 0
    first = "run the same command without it first, to the end"
    if not (directory / "config.json").is_file():
        raise InputError(f"extend={extend}: run_dir {directory} has no run to extend; {first}")
    started = read_sealed(directory / "config.json")
    before = (started.get("config") or started.get("fit") or {}).get("extend", 0)
    if extend < before:
        raise InputError(f"extend={extend}: run_dir {directory} is extended by {before} already; give that or more")
    if extend == before:
        return started["extended"][-1]["extend"]
    if not (directory / "result.json").is_file():
        raise InputError(f"extend={extend}: run_dir {directory} is not finished; {first}")
    return before


def epochs_scheduled(epochs: int, extend: int, extended: int) -> int:
    """The epochs of the present schedule: those of the training, or those that an extension adds."""
    return extend - extended if extend else epochs


def _extend(
    directory: Path, started: dict[str, Any], kind: str, options: dict[str, Any], contents: dict[str, Any]
) -> None:
    """Turns a finished run into one that goes on, and keeps its result and what its options were."""
    old = started[kind]
    changed = {name: old.get(name, 0) for name in options if old.get(name) != options[name]}
    result = directory / "result.json"
    # First the result: without it the run counts as unfinished, whatever happens next.
    write_atomically(directory / f"result-{old['epochs'] + changed['extend']}-epochs.json", result.read_bytes())
    result.unlink()
    extended = [*started.get("extended", []), changed]
    write_sealed(directory / "config.json", started | {kind: options, **contents, "extended": extended})


@contextlib.contextmanager
def report_disk_full(directory: Path) -> Iterator[None]:
    """Raises `InputError`, naming the directory, if a write fails because the disk is full."""
    full = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT)]
    try:
        yield
    except Exception as error:  # each library raises its own, with these words in the message
        cause: BaseException | None = error
        while cause is not None and not any(words in str(cause) for words in full):
            cause = cause.__cause__ or cause.__context__
        if cause is None or isinstance(error, InputError):
            raise
        advice = "free some space, and run the same command to resume from the last checkpoint"
        raise InputError(f"run_dir {directory}: no space is left on its disk; {advice}") from error


def _check_same_options(directory: Path, old: dict[str, Any], new: dict[str, Any], may_change: tuple[str, ...]) -> None:
    if "preset" in new:  # options that were added after the run was started had their defaults
        old = json.loads(json.dumps(default_config(new["dataset"]).flat())) | old
    if changes := _changes(old, new, may_change):
        raise InputError(f"run_dir {directory} holds another run; {changes}: name another, or give the same values")


def _changes(old: dict[str, Any], new: dict[str, Any], may_change: tuple[str, ...] = ()) -> str:
    """The options that differ and may not, with both values."""
    names = sorted((old.keys() | new.keys()) - {*_MAY_CHANGE, *may_change})
    differing = [name for name in names if old.get(name) != new.get(name)]
    return ", ".join(f"{name} (was {old.get(name)!r}, is {new.get(name)!r})" for name in differing)


def _check_same_contents(
    directory: Path, started: dict[str, Any], contents: dict[str, Any], versions: dict[str, str], extends: bool
) -> None:
    traced_otherwise = any(started.get("versions", {}).get(x) != versions[x] for x in ("jax", "flax", "optax"))
    for name, new in contents.items():
        # Older runs have no digests, and other versions may trace the same function differently.
        if (old := started.get(name, new)) == new or (name == "digests" and traced_otherwise):
            continue
        if name == "numerics":
            _check_same_options(directory, {**new, **old}, {**old, **new}, ())
            continue
        changed = [part for part in new if old.get(part) != new[part]] if name == "digests" else []
        # A part that was added after the run was started was None.
        if name == "digests" and set(changed) <= ({"optimizer"} if extends else set()):
            continue
        reasons = {"data_sha256": "other images or labels", "teacher_sha256": "another teacher"}
        reasons["split"] = f"the split {old}, not {new}"
        reason = reasons.get(name, f"another {' and '.join(changed)} of the same name")
        raise InputError(f"run_dir {directory} was started with {reason}; name another run_dir")


def teacher_directory(path: Path) -> Path:
    """The directory of a trained teacher: `path`, or the teacher of the run `path`."""
    for directory in (path / "teacher", path):
        if is_trained(directory):
            return directory
    raise InputError(f"teacher_checkpoint {path} is not a run directory with a trained teacher")


def content_digests(data: bytes, teacher: bytes | None = None, split: str | None = None) -> dict[str, str | None]:
    """Entries of config.json: digests of the data set, of the weights of another run's teacher, and of a split."""
    found = {"data_sha256": sha256(data), "teacher_sha256": None if teacher is None else sha256(teacher)}
    return found if split is None else {**found, "split": split}
