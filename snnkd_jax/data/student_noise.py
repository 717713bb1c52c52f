"""Noise on the images that a student sees in training, of which its teacher sees the clean ones."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from snnkd_jax.data.corruptions import IMAGE_LEVELS, MAX_LEVEL, corrupt, named_key
from snnkd_jax.errors import InputError, check_choice

CLEAN = "none"


@dataclasses.dataclass(frozen=True)
class StudentNoise:
    """A function of a key and images that adds to each image one of `choices`, drawn with equal probability.

    Args:
        choices: texts `KIND:LEVEL`, a kind of `corruptions.IMAGE_LEVELS` but `jpeg` and a level of 1 to 5, or "none"
            for a clean image; one that is repeated is drawn more often. A single text is split at blanks.

    Raises:
        InputError: for other choices, and if none of them is noise.
    """

    choices: Sequence[str]

    def __post_init__(self):
        choices = self.choices.split() if isinstance(self.choices, str) else self.choices
        object.__setattr__(self, "choices", tuple(choices))
        if not self.kinds:
            raise InputError(f"student_noise={self.choices!r} has no noise; give KIND:LEVEL, such as gaussian:3")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of noise among the choices."""
        return tuple(dict.fromkeys(noise[0] for noise in map(_parsed, self.choices) if noise is not None))

    def __call__(self, key: Array, images: Array) -> Array:
        """Adds noise to images `[B, H, W, C]` or sequences `[B, T, H, W, C]`, float32 in [0, 1].

        The frames of a sequence have the same kind and level, and each its own draw.
        """
        frames = images.reshape(-1, *images.shape[-3:])
        per_image = (images.shape[0], *[1] * (images.ndim - 1))
        drawn = jax.random.randint(named_key(key, "choice"), per_image, 0, len(self.choices))
        view = images
        for i, noise in enumerate(map(_parsed, self.choices)):
            if noise is not None:
                view = jnp.where(drawn == i, corrupt(*noise, key, frames).reshape(images.shape), view)
        return view


def _parsed(choice: str) -> tuple[str, int] | None:
    """Kind and level of a choice, None if it is clean; raises `InputError` for anything else."""
    if choice == CLEAN:
        return None
    kind, _, level = choice.partition(":")
    if kind == "jpeg":
        reason = "JPEG is encoded on the host, and this noise is drawn on the device, within the training step"
        raise InputError(f"student_noise={choice!r}: {reason}; choose another kind")
    check_choice(f"student_noise={choice!r}: kind", kind, [kind for kind in IMAGE_LEVELS if kind != "jpeg"])
    if level not in map(str, range(1, MAX_LEVEL + 1)):
        advice = f"give it as {kind}:3, 1 to {MAX_LEVEL}, and {CLEAN} for clean images"
        raise InputError(f"student_noise={choice!r}: level {level!r} is unknown; {advice}")
    return kind, int(level)
