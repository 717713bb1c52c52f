"""Tests run on eight virtual CPU devices. Warnings are errors, by the configuration in pyproject.toml."""

from pathlib import Path

import comparison
import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)


def pytest_addoption(parser):
    parser.addoption("--fidelity", type=Path, metavar="FILE", help="append what comparisons found, a JSON line each")


def pytest_configure(config):
    comparison.report = config.getoption("--fidelity")
