"""Conversion of a trained ordinary network into a spiking one, the alternative to training one.

| method       | threshold theta of a layer                         | first potential | source                |
| ------------ | -------------------------------------------------- | --------------- | --------------------- |
| `percentile` | a percentile of its activations on training images | 0               | Rueckauer et al. 2017 |
| `qcfs`       | learned with the quantised activation, in training | theta / 2       | Bu et al., ICLR 2022  |

Both fold the batch norms, use integrate-and-fire neurons with soft reset, feed the image as a constant current, and
read out the mean of the logits. The conversion error falls with 1 / T; see `snnkd_jax.models.conversion`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from snnkd_jax.errors import InputError
from snnkd_jax.models import Network, Variables
from snnkd_jax.models.conversion import activations, fold_norms, is_quantised, learned_thresholds, spiking

BATCH_SIZE = 100  # of the images that thresholds are measured on; every activation of all of them is kept


def convert_percentile(
    network: Network, variables: Variables, images: NDArray, num_steps: int, percentile: float = 99.9
) -> tuple[Network, Variables]:
    """Conversion by data-based normalisation.

    Args:
        network, variables: ordinary, trained with ReLU.
        images: normalised training images `[N, H, W, C]`; some hundred are enough.
        num_steps: T of one call of the spiking network; others follow from `Network.apply_from`.
        percentile: in (0, 100], of a layer's activations, zeros included; 100 is their maximum.

    Returns:
        The spiking network and its variables.

    Raises:
        InputError: for a network with quantised activations, a percentile out of range, or a layer that never answers.
    """
    if network.num_steps is not None:
        raise InputError("this network is spiking already; convert an ordinary one")
    if is_quantised(network):
        raise InputError("this network was trained with quantised activations; use convert_qcfs")
    if not 0 < percentile <= 100:
        raise InputError(f"percentile={percentile!r} must be in (0, 100]")
    if not len(images):
        raise InputError("images: no image to measure activations on")
    batches = [images[i : i + BATCH_SIZE] for i in range(0, len(images), BATCH_SIZE)]
    measure = jax.jit(lambda variables, images: activations(network, variables, images))
    measured = [jax.device_get(measure(variables, jnp.asarray(batch))) for batch in batches]
    thresholds = {
        name: float(np.percentile(np.concatenate([part[name].ravel() for part in measured]), percentile))
        for name in measured[0]
    }
    folded = fold_norms(network, variables, images.shape[1:])
    return spiking(*folded, thresholds, num_steps, v_init=0.0)


def convert_qcfs(
    network: Network, variables: Variables, image_shape: tuple[int, int, int], num_steps: int
) -> tuple[Network, Variables]:
    """Conversion of a network that was trained with quantised activations (`build(..., levels=L)`).

    Args:
        network, variables: ordinary, with `QCFS` activations.
        image_shape: `[H, W, C]`.
        num_steps: T of one call of the spiking network.

    Raises:
        InputError: for a network with ReLU.
    """
    if not is_quantised(network):
        raise InputError("this network was trained with ReLU; use convert_percentile, or train with levels=8")
    folded = fold_norms(network, variables, image_shape)
    return spiking(*folded, learned_thresholds(variables), num_steps, v_init=0.5)
