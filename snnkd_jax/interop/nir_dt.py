"""The length of a time step, dt in seconds, of a NIR file that does not have it.

NIR is in continuous time, and the programs that write it have steps. Which ones, their neurons tell, if at one dt each
of them is a neuron of `snnkd_jax.dynamics.neurons`, whose input current has the weight 1 (or 1 / tau, in steps):

    IF, I      r dt = 1
    LIF, LI    r dt = tau, or r = 1 at any dt <= tau
"""

import math
from typing import Any

import nir
import numpy as np

from snnkd_jax.errors import InputError

DT = 1e-4
"""The default of most programs, in seconds."""

TOLERANCE = 1e-6
"""Relative; programs store constants in float32."""


def find_dt(nodes: dict[str, nir.NIRNode]) -> float:
    """The dt at which all neurons are as above; `DT`, if that is one of several.

    Raises `InputError` if there is none, or `DT` is none of several.
    """
    needs = [(name, dt) for name, node in nodes.items() for dt in _only(node)]
    first, dt = needs[0] if needs else ("", DT)
    for name, other in needs:
        if not 0 < other < math.inf:
            raise InputError(f"{_MISSING}: none gives {name!r} a weight of 1")
        if not _close(other, dt):
            raise InputError(f"{_MISSING}: {first!r} needs {dt:g} for a weight of 1, and {name!r} needs {other:g}")
    for name, node in nodes.items():
        tau = float(np.min(getattr(node, "tau", math.inf)))
        if 0 < tau < dt and not _close(dt, tau):
            found = f"{first!r} needs {dt:g} for a weight of 1" if needs else f"the default is {dt:g}"
            raise InputError(f"{_MISSING}: {found}, and {name!r} has tau={tau:g}, which must not be shorter")
    return DT if _close(dt, DT) else dt


_MISSING = "the file does not say how long a time step is; give dt in seconds, which is not plain from its neurons"


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=TOLERANCE)


def _only(node: Any) -> list[float]:
    """Each dt that a neuron of the node admits only; empty if it admits several."""
    if not isinstance(node, nir.LIF | nir.LI | nir.IF | nir.I):
        return []
    r = np.asarray(node.r, np.float64)
    tau = np.broadcast_to(getattr(node, "tau", 1.0), r.shape)
    chosen = np.full(r.shape, True) if isinstance(node, nir.IF | nir.I) else ~np.isclose(r, 1, TOLERANCE, 0)
    with np.errstate(divide="ignore", over="ignore"):
        return np.unique(tau[chosen] / r[chosen]).tolist()
