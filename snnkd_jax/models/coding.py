"""How a spiking network reads static images: as a current, or coded into spikes (`snnkd_jax.dynamics.encoders`).

| coding      | input of step t                                    | pixels                |
| ----------- | -------------------------------------------------- | --------------------- |
| `"direct"`  | the image, a constant current                      | normalised            |
| `"poisson"` | spikes with the probability of the pixel           | in [0, 1], as stored  |
| `"latency"` | one spike per pixel, the earlier the brighter      | in [0, 1], as stored  |

Poisson spikes are drawn anew in every training step. In inference the draws are fixed, and the same for every image,
so that an answer depends on the image alone.
"""

from typing import Literal, get_args

import jax
from jax import Array

from snnkd_jax.dynamics import encoders
from snnkd_jax.errors import InputError, check_choice

Coding = Literal["direct", "poisson", "latency"]


def check_coding(coding: str, num_steps: int | None) -> None:
    """Raises `InputError` for an unknown coding, and for one of an ANN."""
    check_choice("input_coding", coding, get_args(Coding))
    if coding != "direct" and num_steps is None:
        raise InputError(f"input_coding={coding!r} makes spikes, and an ANN reads images; leave it out")


def encode(coding: Coding, images: Array, num_steps: int, key: Array | None = None) -> Array:
    """Spikes, or currents, `[B, T, H, W, C]` of images `[B, H, W, C]`; `key` draws those of training."""
    if coding == "direct":
        return encoders.direct(images, num_steps)
    if coding == "latency":
        return encoders.latency(images, num_steps)
    if key is not None:
        return encoders.poisson(key, images, num_steps)
    return jax.vmap(lambda image: encoders.poisson(jax.random.key(0), image[None], num_steps)[0])(images)
