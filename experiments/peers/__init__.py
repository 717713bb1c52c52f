"""The networks of `experiments/benchmark.py`, written for each library with its public interface only.

One module a library, `*_net`, each with `make_step(Workload) -> Step`. They are imported by name in the worker process
that measures them, so that none needs to be installed. `rounds` gives them turns, `profiles` profiles this library's.
"""

import dataclasses
import importlib.util

from .workload import TASKS, Task


@dataclasses.dataclass(frozen=True)
class Library:
    """Where a library's entry is and what it needs.

    Attributes:
        module: in this package, with `make_step`.
        packages: importable names without which the entry cannot run.
        install: the command that installs what is missing.
        tasks: those that it has.
        distributions: names under which versions are recorded.
    """

    module: str
    packages: tuple[str, ...] = ()
    install: str = ""
    tasks: tuple[Task, ...] = ("train", "kd", "inference")
    distributions: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        """Whether all its packages can be imported."""
        return all(importlib.util.find_spec(name) is not None for name in self.packages)


_BENCH = "pip install '.[bench]'"
_WITHOUT_DEPENDENCIES = "pip install --no-deps 'spikingjelly>=2,<3' 'norse>=1.1,<2' nirtorch"
_SPIKINGJELLY = Library(
    module="spikingjelly_net",
    packages=("torch", "spikingjelly"),
    install=f"{_BENCH} && {_WITHOUT_DEPENDENCIES}",
    tasks=("train", "integer", "kd", "kd-integer", "inference"),
    distributions=("torch", "spikingjelly"),
)

LIBRARIES: dict[str, Library] = {
    "snnkd_jax": Library("snnkd_net", tasks=TASKS),
    "spikingjelly": _SPIKINGJELLY,
    "spikingjelly-compile": dataclasses.replace(_SPIKINGJELLY, module="spikingjelly_compiled_net"),
    "snntorch": Library("snntorch_net", ("torch", "snntorch"), _BENCH, distributions=("torch", "snntorch")),
    "norse": Library(
        "norse_net", ("torch", "norse"), f"{_BENCH} && {_WITHOUT_DEPENDENCIES}", distributions=("torch", "norse")
    ),
    "spyx": Library("spyx_net", ("spyx",), _BENCH, distributions=("spyx",)),
    "naive-jax": Library("naive_jax_net"),
}
"""Library name, as in `--libraries`, to its entry."""
