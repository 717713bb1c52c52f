"""The result record: one JSON file per result, with what it rests on."""

import datetime
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from snnkd_jax.files import write_json
from snnkd_jax.runs import provenance
from snnkd_jax.runs.provenance import origin


def write_record(directory: Path, kind: str, name: str, content: dict[str, Any], versions: Iterable[str] = ()) -> None:
    """Writes what a script found, with its command, versions (of `versions` too), hardware, commit and date.

    Args:
        directory: of the records of that kind; made if it is not there.
        kind: what `experiments/make_tables.py` knows the record by.
        name: of the record and its file.
        content: what was found, and of what; its entries go before the others of the same name.
        versions: further packages whose versions matter.
    """
    directory.mkdir(parents=True, exist_ok=True)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    script = shlex.join(["python", f"experiments/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    started = origin() | {"command": script, "versions": provenance.versions(versions)}
    record = {"kind": kind, "name": name, **started, **content, "date": date}
    write_json(directory / f"{name}.json", record)
