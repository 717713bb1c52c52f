"""Energy of multiply-accumulate (MAC) and accumulate (AC) operations, without memory access."""

import math

from snnkd_jax.errors import InputError

MAC_PJ, AC_PJ = 4.6, 0.9
"""Energy per float32 operation at 45 nm in pJ. Source: Horowitz, ISSCC 2014."""


def joules(macs: float, acs: float, mac_pj: float = MAC_PJ, ac_pj: float = AC_PJ) -> float:
    """The energy in J at `mac_pj` and `ac_pj` pJ per operation; raises `InputError` unless both are in (0, inf)."""
    for name, value in (("mac_pj", mac_pj), ("ac_pj", ac_pj)):
        if not 0 < value < math.inf:
            raise InputError(f"{name}={value!r} must be the energy of an operation in picojoules, such as 0.9")
    return 1e-12 * (mac_pj * macs + ac_pj * acs)
