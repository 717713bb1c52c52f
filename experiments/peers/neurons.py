"""The neurons of a workload, as this library defines them; SpikingJelly's are made from these."""

from snnkd_jax.dynamics.neurons import ILIF, LIF
from snnkd_jax.dynamics.surrogate import atan

from .workload import ALPHA, TAU, V_THRESHOLD, Workload


def neuron(work: Workload) -> LIF | ILIF:
    """LIF, or integer neurons of as many levels as the others have time steps."""
    if work.has_integers:
        return ILIF(levels=work.num_steps, tau=TAU, v_threshold=V_THRESHOLD)
    return LIF(tau=TAU, v_threshold=V_THRESHOLD, surrogate=atan(ALPHA))
