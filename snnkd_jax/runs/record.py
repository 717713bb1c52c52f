"""The result record: one JSON file per result, with what it rests on."""

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from snnkd_jax.errors import InputError
from snnkd_jax.files import read_json, write_json
from snnkd_jax.runs.command import command
from snnkd_jax.runs.config import Config
from snnkd_jax.runs.provenance import origin
from snnkd_jax.runs.recipe import SEED


def write_record(path: Path, kind: str, content: dict[str, Any], versions: Iterable[str] = ()) -> None:
    """Writes what was found, with the command, versions (of the packages `versions` too), hardware, commit and date.

    The record has the file's name without `.json`, and `kind` of measurement; `content` goes before entries of the same
    name. Raises `InputError` if the file cannot be written.
    """
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"kind": kind, "name": path.stem, **origin(versions), **content, "date": date})
    except OSError as error:
        raise InputError(f"record {path} cannot be written ({error.strerror}); name another file") from error


def recipe_of(found: list[tuple[Config, Path]]) -> dict[str, Any]:
    """What a record says of finished runs that differ in their seed: the first one's command, configuration, origin."""
    config, run = found[0]
    started = read_json(run / "config.json")
    return {
        "run_command": command(config),
        "seeds": [config.run.seed for config, _ in found],
        "config": {n: v for n, v in config.published().flat().items() if n not in SEED},
        "trained": {name: started[name] for name in ("versions", "hardware", "commit")},
    }
