"""How an ANN reads sequences of T frames `[B, T, H, W, C]`, such as those of events.

| reading      | images of the ANN                    | its logits and features         |
| ------------ | ------------------------------------ | ------------------------------- |
| `"mean"`     | `[B, H, W, C]`, the mean over time   | as they are                     |
| `"channels"` | `[B, H, W, T C]`, the frames in turn | as they are                     |
| `"each"`     | `[B T, H, W, C]`, each frame alone   | means over the T of a sequence  |

A static image `[B, H, W, C]` is a sequence of T equal frames. All three give the stages `[B, H, W, C]` of an ANN, so
that each can be the teacher of a spiking network by its logits and by its features.
"""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array

from snnkd_jax.errors import InputError, check_choice, check_count

Reading = Literal["mean", "channels", "each"]


@dataclasses.dataclass(frozen=True)
class Frames:
    """A reading of sequences of T = `num_frames` frames."""

    reading: Reading
    num_frames: int

    def __post_init__(self):
        check_choice("frames", self.reading, get_args(Reading))
        check_count("num_frames", self.num_frames)

    def images(self, frames: Array) -> Array:
        """The images of the ANN, of sequences or of static images; raises `InputError` for another T."""
        if frames.ndim == 4:
            return jnp.tile(frames, self.num_frames) if self.reading == "channels" else frames
        if frames.ndim != 5 or frames.shape[1] != self.num_frames:
            expected = f"[B, {self.num_frames}, H, W, C] or [B, H, W, C]"
            raise InputError(f"images have shape {frames.shape}; this network takes {expected}")
        if self.reading == "mean":
            return frames.mean(axis=1)
        if self.reading == "each":
            return frames.reshape(-1, *frames.shape[2:])
        return jnp.moveaxis(frames, 1, -2).reshape(frames.shape[0], *frames.shape[2:4], -1)

    def outputs(self, batch: int, outputs: Any) -> Any:
        """The ANN's outputs, a tree of arrays of its images, for `batch` sequences or static images."""

        def of_sequences(x: Array) -> Array:
            return x if x.shape[0] == batch else x.reshape(batch, -1, *x.shape[1:]).mean(axis=1)

        return jax.tree.map(of_sequences, outputs)
