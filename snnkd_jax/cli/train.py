"""`snnkd train`: distil a spiking student from an ANN teacher, or resume a run that was interrupted.

snnkd train --dataset digits     # two minutes on two CPU cores, no network
snnkd train                      # the paper's (arXiv 2304.05627): CIFAR-10, PyramidNet-18 to ResNet-18, T = 4
"""

import sys
import traceback
from collections.abc import Sequence
from typing import Any

import tyro

from snnkd_jax.cli.arguments import call
from snnkd_jax.cli.status import exit_status
from snnkd_jax.errors import InputError
from snnkd_jax.runs.config import Config


def main(arguments: Sequence[str] | None = None, dataset: str | None = None) -> int:
    """`train` for scripts: with `arguments`, None for the process's, on `dataset` if they name none."""
    return call(train, arguments, dataset)


def train(config: tyro.conf.OmitArgPrefixes[Config]) -> int:
    """Distil a spiking student from an ANN teacher, or resume an interrupted run.

    Run the same command to resume. The defaults depend on --dataset and --recipe; those below are CIFAR-10's unless
    they are given with --help. Ctrl-C, SIGTERM and the signals of schedulers (SIGUSR1, SIGUSR2, SIGXCPU, SIGHUP) save
    a checkpoint first. The exit status is 0 after a complete run or one of them, but 130 after Ctrl-C, 2 for wrong
    input, and 1 if another process of the run is lost.

    Args:
        config: Configuration of the run.
    """
    config.check()  # errors that need no JAX are reported at once
    from snnkd_jax.parallel.hosts import shut_down

    return shut_down(exit_status(lambda: _run(config)))


def _run(config: Config) -> int:
    from snnkd_jax.experiment import run
    from snnkd_jax.parallel.hosts import initialize, is_distributed, is_host0, print_on_host0, wait_for_watchdog
    from snnkd_jax.training.interrupt import Interrupted, ignore_scheduler_signals

    try:
        initialize(config.run.distributed)
        result = run(config)
    except Interrupted as stop:
        ignore_scheduler_signals()
        if is_host0():
            print(stop, file=sys.stderr)
        return stop.exit_status
    except Exception as error:
        if isinstance(error, InputError) or not is_distributed():
            raise
        wait_for_watchdog()
        traceback.print_exc()
        return 1
    print_on_host0(f"\n{table(result)}")
    return 0


def table(result: dict[str, Any]) -> str:
    """The comparison as text, one row per network of the run."""
    from snnkd_jax.analysis.energy import aligned
    from snnkd_jax.report.run import result_rows

    heading, *lines = aligned(result_rows(result), left=1)
    return "\n".join([heading, "-" * len(heading), *lines])
