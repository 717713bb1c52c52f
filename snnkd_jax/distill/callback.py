"""Teachers of other frameworks: functions of NumPy arrays that JAX's programs call on the host."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.distill.teacher import Teacher
from snnkd_jax.errors import InputError, check_count

TOLERANCE = 0.01
"""Relative to the largest logit: what batches of other sizes may change by rounding (a guess)."""

_EXAMPLE = "lambda x: net(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).detach().numpy()"


def callback_teacher(
    function: Callable[[NDArray], Any],
    *,
    num_classes: int,
    normalisation: Normalisation | None = None,
    name: str = "callback",
) -> Teacher:
    """Wraps a function of another framework, such as PyTorch or scikit-learn, as a teacher of logits alone.

    The function is called from within JAX's programs (`jax.pure_callback`), with NumPy arrays and on the host, in every
    training step: the images are copied from the device, all devices wait for it, and the logits are copied back. It
    costs what the function itself takes, and is not parallel to the student's step. With `store_teacher` it is called
    once per step for several students. The function must not call JAX. Files of PyTorch with a known architecture are
    converted instead, which is faster: `teacher="torch:FILE"`.

    Args:
        function: maps normalised images, float32 `[B, H, W, C]`, to logits `[B, K]`, for any B, in evaluation mode; it
            is tried on two random images first.
        num_classes: K.
        normalisation, name: as in `Teacher`; the name identifies the function when a run is resumed.

    Raises:
        InputError: if there are several processes. When it is applied: if the function fails, or returns anything but
            finite logits that are the same for the same image, such as probabilities.
    """
    check_count("num_classes", num_classes, 2)
    who = f"teacher {name!r}"
    if not callable(function):
        found = f"function is a {type(function).__name__}, which cannot be called"
        raise InputError(f"{who}: {found}; give a function of NumPy images [B, H, W, C], such as {_EXAMPLE}")
    if jax.process_count() > 1:
        raise InputError(f"{who}: a callback runs in one process, and there are {jax.process_count()}; start one alone")
    call = functools.partial(_call, who, function, num_classes)
    tried: set[tuple[int, ...]] = set()

    def traced(_: Any, images: Array) -> Array:
        if images.shape[1:] not in tried:
            _try(who, call, images.shape[1:])
            tried.add(images.shape[1:])
        logits = jax.ShapeDtypeStruct((images.shape[0], num_classes), jnp.float32)
        return jax.pure_callback(call, logits, images.astype(jnp.float32))

    return Teacher(traced, normalisation=normalisation, name=name)


def _call(who: str, function: Callable[[NDArray], Any], num_classes: int, images: Any) -> NDArray:
    """The function's logits, float32 `[B, K]`; raises `InputError` for anything else."""
    try:
        logits = np.asarray(function(np.array(images)))
    except Exception as error:
        raised = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        given = f"NumPy images of shape {images.shape}"
        raise InputError(f"{who}: function raised {raised} for {given}; give one such as {_EXAMPLE}") from error
    shape = len(images), num_classes
    if logits.shape != shape or logits.dtype.kind not in "fiu":
        raise InputError(f"{who}: function returned {logits.dtype} {logits.shape}, not logits [B, K] = {shape}")
    if not np.isfinite(logits).all():
        raise InputError(f"{who}: function returned logits that are not finite; return finite ones")
    return logits.astype(np.float32)


def _try(who: str, call: Callable[[NDArray], NDArray], image_shape: tuple[int, ...]) -> None:
    """Raises `InputError` unless the function gives logits that depend on the image alone, on two random images."""
    images = np.random.default_rng(0).standard_normal((2, *image_shape)).astype(np.float32)
    logits = call(images)
    if (logits >= 0).all() and np.allclose(logits.sum(-1), 1, atol=1e-3):
        raise InputError(f"{who}: function returns probabilities; return logits, such as np.log(np.maximum(p, 1e-6))")
    alone = np.concatenate([call(images[:1]), call(images[1:])])
    for when, found in (("when called again", call(images)), ("when alone", alone)):
        if np.abs(found - logits).max() > TOLERANCE * np.abs(logits).max():
            raise InputError(f"{who}: function gives an image other logits {when}; use evaluation mode, net.eval()")
