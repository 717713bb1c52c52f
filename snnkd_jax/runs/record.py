"""The result record: one JSON file per result, with its provenance."""

import contextlib
import datetime
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from snnkd_jax.errors import InputError
from snnkd_jax.files import check_writable, check_writable_file, read_sealed, write_json
from snnkd_jax.lock import Lock
from snnkd_jax.runs.command import command
from snnkd_jax.runs.config import Config
from snnkd_jax.runs.provenance import origin
from snnkd_jax.runs.recipe import SEED


def write_record(path: Path, kind: str, content: dict[str, Any], versions: Iterable[str] = ()) -> None:
    """Writes a record of this `kind`, named after its file, with provenance (also of the packages `versions`) and date.

    Entries of `content` take precedence over the provenance. Raises `InputError` if the file cannot be written.
    """
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"kind": kind, "name": path.stem, **origin(versions), **content, "date": date})
    except OSError as error:
        raise InputError(f"record {path} cannot be written ({error.strerror}); name another file") from error


@contextlib.contextmanager
def result_files(runs: Sequence[Path], out: Path | None, name: str) -> Iterator[list[Path]]:
    """The files of this name in the directories of runs, or in `out`: there in a folder per run if there are several.

    Until the context ends, no other process may write there. Raises `InputError`, before anything is measured, if one
    of them cannot be written, or another process does.
    """
    argument = "out" if out else "run"
    directories = list(runs) if out is None else [out]
    if out is not None and len(runs) > 1:
        directories = [out / run.resolve().name for run in runs]
        if len(set(directories)) < len(runs):
            raise InputError(f"out={out}: some of the runs have the same name; measure them one by one")
    with contextlib.ExitStack() as locks:
        for directory in directories:
            try:
                check_writable(argument, directory)
                locks.enter_context(Lock(argument, directory))
            except InputError as error:
                raise InputError(f"{error}{'' if out else ', or give --out, a folder for the result'}") from error
            check_writable_file(argument, directory / name)
        yield [directory / name for directory in directories]


def recipe_of(found: list[tuple[Config, Path]]) -> dict[str, Any]:
    """The entries of a record about runs that differ in their seed: seeds, recipe, and provenance of the first run."""
    config, run = found[0]
    started = read_sealed(run / "config.json")
    return {
        "run_command": command(config),
        "seeds": [config.run.seed for config, _ in found],
        "config": {name: value for name, value in config.published().flat().items() if name not in SEED},
        "trained": {name: started[name] for name in ("versions", "hardware", "commit")},
    }
