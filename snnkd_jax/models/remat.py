"""Rematerialisation: what is computed again in the backward pass instead of being kept for it.

Every layer keeps its input for the backward pass, `[B, T, ...]` of each, so memory grows with T times depth.

| remat   | kept between the passes  | computed again and held, one at a time        |
| ------- | ------------------------ | --------------------------------------------- |
| `none`  | the inputs of all layers | nothing but the potentials                    |
| `stage` | what enters a stage      | what enters and leaves a stage's convolutions |
| `block` | what enters a block      | what enters and leaves a block's convolutions |

A convolution is computed twice then, a norm and its neurons three times: the current between them would take as much
memory as the convolution's output, and costs next to no arithmetic. Values and gradients are the same, but for
rounding. Batch norm's moments are kept in any case: they are small, and to compute them again the devices would have to
exchange them again. A residual block is a block; the bodies without them (convnet, vgg and airbench) have stages of one
to three convolutions, which are their blocks. Evaluation keeps nothing in any case.

Reference: Chen et al. 2016, arXiv 1604.06174.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax

Remat = Literal["none", "stage", "block"]

MOMENTS = "moments"
"""The name, in the sense of `jax.ad_checkpoint.checkpoint_name`, of what is kept although it is inside."""


def rematerialised(layers: Callable[..., Any], enabled: bool) -> Callable[..., Any]:
    """The same layers, of whose forward pass only the input and batch norm's moments are kept.

    Args:
        layers: a module class, or a function of the module that owns the layers and of their input. Variables that they
            write, such as batch statistics, are written once.
        enabled: False returns `layers` as they are.
    """
    if not enabled:
        return layers
    return nn.remat(layers, policy=jax.checkpoint_policies.save_only_these_names(MOMENTS))
