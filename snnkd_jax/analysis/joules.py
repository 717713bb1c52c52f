"""The energy of operations; memory access is not in it."""

import math

from snnkd_jax.errors import InputError

MAC_PJ, AC_PJ = 4.6, 0.9
"""Picojoules of an operation in float32 at 45 nm: a product and a sum, a sum. Source: Horowitz, ISSCC 2014."""


def joules(macs: float, acs: float, mac_pj: float = MAC_PJ, ac_pj: float = AC_PJ) -> float:
    """The energy of so many operations, of `mac_pj` and `ac_pj` picojoules each; memory access is not in it.

    Raises `InputError` for energies that are not positive and finite.
    """
    for name, value in (("mac_pj", mac_pj), ("ac_pj", ac_pj)):
        if not 0 < value < math.inf:
            raise InputError(f"{name}={value!r} must be the energy of an operation in picojoules, such as 0.9")
    return 1e-12 * (mac_pj * macs + ac_pj * acs)
