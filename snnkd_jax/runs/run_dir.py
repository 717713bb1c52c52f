"""The run directory: what a run leaves on disk, and how it is found to be the same run.

config.json      the configuration, versions, hardware and commit with which the run was started, and digests of the
                 data set and of the teacher of another run
metrics.jsonl    one line for each epoch of each network
teacher/, student_baseline/, student/    checkpoints, and in the end `network.json`: what they are of, sealed
compilation-cache/    compiled programs, which a resumed run need not compile again; may be deleted
profile/         traces, if they were asked for
student/observation.npz    what the report shows of the student, recorded at the end
noise.json, energy.json    what `snnkd noise` and `snnkd energy` found, if they were run
result.json      the comparison; written at the end
report.html      how the run went and what its student does, to be looked at; written last
"""

import contextlib
import dataclasses
import errno
import hashlib
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
from snnkd_jax.parallel.hosts import is_first
from snnkd_jax.runs.config import Config, default_config
from snnkd_jax.runs.provenance import origin
from snnkd_jax.training.checkpoint import newest

NETWORK_FORMAT = 1
"""Of `network.json`; another one is not read."""

# A run and its data may be moved, it may be traced, spread over other devices, and keep more or fewer checkpoints, or
# the teacher's outputs, without becoming another.
_NOT_IDENTITY = (
    "run_dir",
    "data_dir",
    "workers",
    "keep_checkpoints",
    "profile",
    "distributed",
    "fsdp",
    "store_teacher",
)

_MADE_AFTER = ("teacher", "student_baseline", "student", "metrics.jsonl", "result.json", "report.html")
"""What a run directory has only if it has `config.json`."""

_IN_NAME = ("dataset", "student", "preset", "num_steps", "seed")


def run_directory(config: Config) -> Path:
    """The run directory that was given, or one of its own for each configuration.

    It is named after what distinguishes most runs, and has a digest of what else is not the default.
    """
    if config.run_dir is not None:
        return Path(config.run_dir)
    options, default = dataclasses.asdict(config), dataclasses.asdict(default_config(config.dataset))
    rest = {
        name: value
        for name, value in options.items()
        if value != default[name] and name not in (*_IN_NAME, *_NOT_IDENTITY)
    }
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:6]
    name = f"{config.dataset}-{config.student}-{config.preset}-t{config.num_steps}-seed{config.seed}"
    return Path("runs") / (f"{name}-{digest}" if rest else name)


def open_run_dir(directory: Path, config: Config, data: bytes, teacher: bytes | None = None) -> None:
    """Makes the run directory, or finds that it holds the same run.

    Args:
        directory: the run's.
        config: of the run.
        data: what tells the data set from others, `Inputs.identity`.
        teacher: what tells the weights of a teacher of another run from others.

    Raises:
        InputError: if it cannot be written, has files of something else, or holds a run of another configuration, of
            other data or of another teacher.
    """
    saved = directory / "config.json"
    contents = {"data_sha256": sha256(data), "teacher_sha256": None if teacher is None else sha256(teacher)}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise InputError(f"run_dir {directory} cannot be written ({error.strerror}); name another") from error
    if not saved.exists() and not is_first():
        raise InputError(
            f"run_dir {directory} is not where the first process made it; all hosts must share its file system"
        )
    if not saved.exists():
        if found := [name for name in _MADE_AFTER if (directory / name).exists()]:
            raise InputError(f"run_dir {directory} has {', '.join(found)} but no config.json; name another")
        write_json(saved, {"config": dataclasses.asdict(config), **contents, **origin()})
    started = read_json(saved)
    if not isinstance(started.get("config"), dict):
        raise InputError(f"{saved} is not a configuration of this program; name another run_dir")
    _check_same(directory, started["config"], json.loads(json.dumps(dataclasses.asdict(config))))
    for name, what in (
        ("data_sha256", f"other images of {config.dataset} than are in data_dir {config.data_dir}"),
        ("teacher_sha256", f"another teacher than is in teacher_checkpoint {config.teacher_checkpoint} now"),
    ):
        if started.get(name, contents[name]) != contents[name]:  # older runs have none
            raise InputError(f"run_dir {directory} was started with {what}; name another run_dir")
    now = origin()
    if differing := [name for name in ("versions", "commit") if started.get(name) != now[name]]:
        warnings.warn(f"run_dir {directory} was started with other {' and '.join(differing)}", stacklevel=2)


@contextlib.contextmanager
def full_disk_told(directory: Path) -> Iterator[None]:
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
            f"run_dir {directory}: no space is left on its disk; make some, and the same command goes on from the last "
            "checkpoint, which is whole"
        ) from error


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
    found = {"levels": None, "pool": "avg", "dtype": "float32"} | read_network(directory)
    wanted = json.loads(json.dumps(wanted))
    if found.keys() != wanted.keys():
        raise InputError(f"teacher_checkpoint {directory}: its network.json is damaged")
    differing = [name for name in wanted if found[name] != wanted[name]]
    # Names and pixel statistics follow from the data set; to list them would hide what differs.
    if shown := [n for n in differing if n not in ("class_names", "normalisation")] or differing:
        changes = ", ".join(f"{name} is {found[name]!r}, not {wanted[name]!r}" for name in shown)
        raise InputError(f"teacher_checkpoint {directory} is of another network: {changes}")


def write_network(directory: Path, description: dict[str, Any]) -> None:
    """Writes `network.json`, after which the network in `directory` counts as trained to its end.

    It seals the description, and the files of the newest checkpoint that hold the network, by their SHA-256. The first
    process writes.
    """
    if not is_first():
        return
    paths = sorted(path for path in (newest(directory) / "network").rglob("*") if path.is_file())
    files = {path.relative_to(directory).as_posix(): sha256(path.read_bytes()) for path in paths}
    content = {"format": NETWORK_FORMAT, **description, "files": files}
    write_json(directory / "network.json", content | {"sha256": _seal(content)})


def read_network(directory: Path) -> dict[str, Any]:
    """The description in `network.json`, of a network that is as it was when it was written.

    Files without format and seal are older than these, and taken at their word.

    Raises:
        InputError: if the file cannot be read, is of another format, or is not as it was; if a file of the network is
            missing or is not as it was.
    """
    path = directory / "network.json"
    content = read_json(path)
    if not content.keys() & {"format", "files", "sha256"}:
        return content
    if content.get("format") != NETWORK_FORMAT:
        raise InputError(
            f"{path} is damaged or of another version: its format is {content.get('format')!r}, and this version reads "
            f"{NETWORK_FORMAT}; use the version that trained it"
        )
    seal = content.pop("sha256", None)
    if seal != _seal(content):
        raise InputError(f"{path} is damaged: it does not say what it said when it was written; copy it again")
    for name, digest in content.pop("files").items():
        try:
            found = sha256((directory / name).read_bytes())
        except OSError as error:
            raise InputError(f"{directory / name} cannot be read ({error.strerror}); copy the run again") from error
        if found != digest:
            raise InputError(f"{directory / name} is damaged: it is not as it was written; copy the run again")
    del content["format"]
    return content


def _seal(content: dict[str, Any]) -> str:
    """Of a JSON object, whatever its layout in the file."""
    return sha256(json.dumps(content, sort_keys=True).encode())
