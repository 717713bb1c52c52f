"""Where results go: a place that cannot be written is refused before anything is loaded or measured."""

from pathlib import Path

import pytest

from snnkd_jax.cli import main as snnkd
from snnkd_jax.errors import InputError
from snnkd_jax.files import write_sealed
from snnkd_jax.inference import trained as loading
from snnkd_jax.runs.config import default_config
from snnkd_jax.runs.record import result_files
from snnkd_jax.training.manifest import Manifest


@pytest.fixture(autouse=True)
def nothing_is_measured(monkeypatch):
    """Whatever loads a network or a data set fails the test."""

    def measured(*_, **__):
        raise AssertionError("it was measured before the place was checked")

    monkeypatch.setattr(loading, "load", measured)
    monkeypatch.setattr("snnkd_jax.runs.data.DataConfig.load", measured)


@pytest.fixture
def run(tmp_path) -> Path:
    for role in ("teacher", "student"):
        (tmp_path / "run" / role).mkdir(parents=True)
        Manifest(None, role, {}).write(tmp_path / "run" / role)
    write_sealed(tmp_path / "run" / "config.json", {"config": default_config("digits").flat()})
    return tmp_path / "run"


def refused(capsys, *arguments: object) -> str:
    assert snnkd([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


PLACES = [
    ("steps", ["--dataset", "digits", "--record"]),
    ("convert", ["--dataset", "digits", "--record"]),
    ("noise", ["--record"]),
    ("export-nir", ["--out"]),
    ("plan", ["--topology", "v5e:2x2", "--record"]),
]


@pytest.mark.parametrize(("name", "options"), PLACES, ids=[name for name, _ in PLACES])
@pytest.mark.parametrize("place", ["file/x.json", "folder", "/dev/null", "/proc/x/y.json"])
def test_an_unwritable_file_is_refused_before_anything_is_measured(capsys, tmp_path, run, name, options, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    line = refused(capsys, name, *[run] * (name != "plan"), *options, tmp_path / place)
    assert f"{options[-1].removeprefix('--')} {'' if place.startswith('/') else tmp_path}" in line
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("name", ["noise", "energy", "export-stablehlo"])
def test_an_unwritable_folder_is_refused_before_anything_is_measured(capsys, tmp_path, run, name):
    (tmp_path / "file").write_text("")
    assert f"out {tmp_path / 'file' / 'x'}" in refused(capsys, name, run, "--out", tmp_path / "file" / "x")


def places(*arguments) -> list[Path]:
    with result_files(*arguments) as files:
        with pytest.raises(InputError, match="is in use by process"), result_files(*arguments):
            pass
        return files


def test_a_result_goes_to_the_run_or_elsewhere(tmp_path):
    a, b = tmp_path / "a" / "run", tmp_path / "b" / "run"
    for path in (a, b):
        path.mkdir(parents=True)
    out = tmp_path / "out"
    assert places([a, b], None, "noise.json") == [a / "noise.json", b / "noise.json"]
    assert places([a], out, "noise.json") == [out / "noise.json"]
    assert places([a, tmp_path / "a"], out, "x") == [out / "run" / "x", out / "a" / "x"]
    with pytest.raises(InputError, match=r"out=.*same name"):
        places([a, b], out, "noise.json")
    (a / "noise.json").mkdir()
    with pytest.raises(InputError, match=r"noise\.json is a directory"):
        places([a], None, "noise.json")
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_run_that_cannot_be_written_is_told_with_what_helps(tmp_path, monkeypatch):
    """Permissions do not stop root; a directory of a read-only file system is imitated."""
    write = Path.write_bytes

    def read_only(path, data):
        if path.is_relative_to(tmp_path / "run"):
            raise OSError(30, "Read-only file system")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", read_only)
    with pytest.raises(InputError, match=r"run .*Read-only file system.*give --out"):
        places([tmp_path / "run"], None, "energy.json")
    assert places([tmp_path / "run"], tmp_path / "out", "energy.json") == [tmp_path / "out" / "energy.json"]
