"""Tests run on eight virtual CPU devices. Warnings are errors, by the configuration in pyproject.toml.

Programs are compiled quickly (`compilation.py`), because compiling is what takes the tests' time. Tests of what a
compiler could change (spikes to the bit, memory) are marked `optimised`: they compile as a user's programs do, and so
do processes of their own that are not told to compile `QUICKLY`. What takes a while to compile is compiled once, for
all files, xdist's workers and the processes that they start.
"""

import collections
import warnings
from dataclasses import replace
from pathlib import Path

import comparison
import jax
import pytest
from compilation import compile_once, compile_quickly, work_quickly

from snnkd_jax.data.official import OFFICIAL

pytest.register_assert_rewrite("synthetic_sets", "tiny_runs")  # their assertions say what was found, like tests'

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)


def pytest_addoption(parser):
    parser.addoption("--fidelity", type=Path, metavar="FILE", help="append what comparisons found, a JSON line each")


def pytest_configure(config):
    comparison.report = config.getoption("--fidelity")
    config.option.loadscopereorder = False  # xdist's would begin with the files that have the most tests
    compile_quickly(True)  # what files compute when they are read
    work_quickly()
    if not hasattr(config, "workerinput"):  # xdist's workers inherit it
        config.add_cleanup(compile_once())


def pytest_collection_modifyitems(items):
    """Files with the most slow tests first, so that at the end no worker is left alone with one of them.

    Those of `experiments` are before the others: each of their tests is a whole program.
    """
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (slow[item.path] == 0 or item.path.parent.name != "experiments", -slow[item.path]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    compile_quickly(item.get_closest_marker("optimised") is None)


@pytest.fixture
def silent_layers():
    """Runs so short leave layers silent, of which the warning is no error here."""
    warnings.filterwarnings("ignore", message=".*(silent|saturated) layers.*")


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty TFDS directory in which every set has TRAIN and TEST examples, and no proxy."""
    from synthetic_sets import TEST, TRAIN  # not before its assertions are registered

    for name, official in list(OFFICIAL.items()):
        monkeypatch.setitem(OFFICIAL, name, replace(official, train_size=TRAIN, test_size=TEST))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path
