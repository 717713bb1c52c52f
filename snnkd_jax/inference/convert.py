"""Conversion of a trained ANN into a spiking network, without training.

| method       | threshold theta of a layer                         | initial potential | source                |
| ------------ | -------------------------------------------------- | ----------------- | --------------------- |
| `percentile` | a percentile of its activations on training images | 0                 | Rueckauer et al. 2017 |
| `qcfs`       | learned with the quantised activation, in training | theta / 2         | Bu et al., ICLR 2022  |

Both fold the batch norms, use integrate-and-fire neurons with soft reset and cumulative max pooling, take the image as
a constant input current, and read out the mean of the logits. The conversion error falls with 1 / T; see
`snnkd_jax.models.converted`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from snnkd_jax.data.pixels import as_pixels
from snnkd_jax.errors import InputError
from snnkd_jax.inference.trained import Trained
from snnkd_jax.models import Network, Variables
from snnkd_jax.models.converted import (
    check_thresholds,
    convert_to_spiking,
    learned_thresholds,
    quantisation_levels,
    relu_outputs,
)
from snnkd_jax.models.folding import fold_norms
from snnkd_jax.models.recorder import spiking_layers

BATCH_SIZE, MEASURED_IMAGES = 100, 500  # few, since all activations are kept for the percentiles


def convert(teacher: Trained, train_images: NDArray, num_steps: int, percentile: float = 99.9) -> Trained:
    """Converts a trained ANN: by `qcfs` if it has quantised activations, else by `percentile`.

    Args:
        teacher: the ANN.
        train_images: `[N, H, W, C]`, bytes or floats in [0, 1], N >= 1; percentiles are taken over 500 of them, drawn
            with a fixed seed.
        num_steps: T of one call of the spiking network; `Network.apply_from` continues for more.
        percentile: in (0, 100], of a layer's activations, zeros included; 100 is their maximum.

    Raises:
        InputError: for a spiking network or one that reads frames, images that do not fit it, a percentile out of
            range, or a threshold that is not positive.
    """
    if teacher.network.num_steps is not None:
        found = spiking_layers(teacher.network, teacher.variables, teacher.image_shape).values()
        names = ", ".join(dict.fromkeys(type(neuron).__name__ for neuron in found))
        raise InputError(f"this network is spiking already, with {names} neurons; convert an ANN")
    if teacher.network.frames is not None:
        raise InputError(f"{teacher.network.title} reads frames, and conversion is for static images; distil a student")
    if not hasattr(teacher.network.module, "activation"):
        raise InputError(f"{teacher.network.title} has no `activation` to replace; convert a network of `build`")
    check_thresholds(teacher.network, teacher.variables)
    if quantisation_levels(teacher.network) is not None:
        thresholds, v_init = learned_thresholds(teacher.variables), 0.5
    else:
        images = as_pixels("train_images", train_images, teacher.image_shape)
        rows = np.random.default_rng(0).permutation(len(images))[:MEASURED_IMAGES]
        pixels = np.asarray(teacher.normalisation(images[rows]))
        thresholds, v_init = percentiles(teacher.network, teacher.variables, pixels, percentile), 0.0
    folded = fold_norms(teacher.network, teacher.variables, teacher.image_shape)
    network, variables = convert_to_spiking(*folded, teacher.image_shape, thresholds, num_steps, v_init)
    return dataclasses.replace(teacher, network=network, variables=variables, history=(), result={})


def percentiles(network: Network, variables: Variables, images: NDArray, percentile: float) -> dict[str, float]:
    """The percentile of the activations of each ReLU layer on normalised images `[N, H, W, C]`, by the layer's path.

    Raises `InputError` for a percentile outside (0, 100], no images, or a percentile that is not positive.
    """
    if not len(images):
        raise InputError("there are no images to measure activations on; give at least one, better 500")
    if not 0 < percentile <= 100:
        raise InputError(f"percentile={percentile!r} must be in (0, 100]")
    measure = jax.jit(lambda variables, images: relu_outputs(network, variables, images))
    batches = (jnp.asarray(images[i : i + BATCH_SIZE]) for i in range(0, len(images), BATCH_SIZE))
    measured = [jax.device_get(measure(variables, batch)) for batch in batches]
    found = {}
    for name in measured[0]:
        values = np.concatenate([part[name].ravel() for part in measured])
        found[name] = float(np.percentile(values, percentile))
        if not 0 < found[name] < np.inf:
            has = f"percentile={percentile!r} of the activations of {name} is {found[name]:g}, which is no threshold"
            raises = values.max() > 0 and np.isfinite(values).all()
            advice = "raise it" if raises else "no percentile is, on these images: train the ANN anew, or give others"
            raise InputError(f"{has}; {advice}")
    return found
