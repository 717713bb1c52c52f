"""Rematerialisation: intermediate values that are recomputed in the backward pass instead of stored for it.

Every layer stores its input for the backward pass, `[B, T, ...]`, so memory grows with T times depth.

| remat   | stored between the passes | recomputed, one at a time                              |
| ------- | ------------------------- | ------------------------------------------------------ |
| `none`  | the inputs of all layers  | nothing but the potentials                             |
| `stage` | the inputs of the stages  | inputs and outputs of the convolutions within a stage  |
| `block` | the inputs of the blocks  | inputs and outputs of the convolutions within a block  |

A convolution is computed twice then, a norm and its neurons three times: the current between them takes as much memory
as the convolution's output, and next to no arithmetic. Values and gradients are the same, up to rounding. The moments
of batch norm are always stored: they are small, and to recompute them the devices would have to exchange them again. In
architectures without residual blocks (convnet, vgg and airbench), a stage of one to three convolutions is a block.

Reference: Chen et al. 2016, arXiv 1604.06174.
"""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax

Remat = Literal["none", "stage", "block"]

MOMENTS = "moments"
"""The `jax.ad_checkpoint.checkpoint_name` of values that are stored all the same."""


def rematerialised(layers: Callable[..., Any], enabled: bool) -> Callable[..., Any]:
    """The same layers, which store only their input and batch norm's moments for the backward pass, if `enabled`.

    `layers` is a module class, or a function of the module that owns the layers and of their input. Variables that they
    write, such as batch statistics, are written once.
    """
    if not enabled:
        return layers
    return nn.remat(layers, policy=jax.checkpoint_policies.save_only_these_names(MOMENTS))
