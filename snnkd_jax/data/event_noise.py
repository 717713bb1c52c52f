"""Noise of event cameras on frames of events: three kinds at five fixed levels, the same draws for every network.

| kind          | what happens                                                              | level | drawn per       |
| ------------- | ------------------------------------------------------------------------- | ----- | --------------- |
| `event_drop`  | an event is lost with probability p                                       | p     | event           |
| `hot_pixels`  | a pixel is hot with probability p: it emits one more event in every frame | p     | pixel, polarity |
| `time_jitter` | an event is in the frame before or after with probability p / 2 each      | p     | event           |

Events of the first and the last frame do not jitter out of the recording. The levels are guesses.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from snnkd_jax.data.corruptions import check_level, check_per_image, noise_key
from snnkd_jax.data.event_augment import lose_events
from snnkd_jax.errors import InputError, check_choice

EVENT_LEVELS: dict[str, tuple[float, ...]] = {
    "event_drop": (0.1, 0.2, 0.4, 0.6, 0.8),
    "hot_pixels": (0.002, 0.005, 0.01, 0.02, 0.05),
    "time_jitter": (0.1, 0.2, 0.4, 0.6, 0.9),
}
"""Probabilities p of levels 1 to 5 by kind."""


def disturb_events(kind: str, level: int, key: Array, frames: ArrayLike, index: ArrayLike) -> Array:
    """Adds noise of one kind and level to frames of events, uint8 `[B, T, H, W, 2]`; level 0 returns them unchanged.

    The noise of a recording depends only on the key, the kind, the level and `index`, int32 `[B]`, its position in the
    test set. Raises `InputError` for other arguments.
    """
    check_choice("kind", kind, EVENT_LEVELS)
    check_level(level)
    frames = jnp.asarray(frames)
    if frames.ndim != 5 or frames.dtype != jnp.uint8:
        raise InputError(f"frames are {frames.dtype} {frames.shape}; give uint8 [B, T, H, W, 2]")
    check_per_image("index", index, len(frames))
    if level == 0:
        return frames
    return _disturb(kind, EVENT_LEVELS[kind][level - 1], noise_key(key, kind, level), frames, jnp.asarray(index))


@functools.partial(jax.jit, static_argnames="kind")
def _disturb(kind: str, p: Array, key: Array, frames: Array, index: Array) -> Array:
    """Compiled once per kind, for all of its levels."""
    return jax.vmap(lambda x, i: _KINDS[kind](p, jax.random.fold_in(key, i), x))(frames, index)


def _hot_pixels(p: Array, key: Array, frames: Array) -> Array:
    hot = jax.random.bernoulli(key, p, frames.shape[1:])
    return jnp.where(hot & (frames < 255), frames + 1, frames)


def _time_jitter(p: Array, key: Array, frames: Array) -> Array:
    keys = jax.random.split(key)
    staying = lose_events(keys[0], p, frames)
    moving = frames - staying
    later = lose_events(keys[1], 0.5, moving)
    counts, later, earlier = (x.astype(jnp.int32) for x in (staying, later, moving - later))
    counts = counts.at[1:].add(later[:-1]).at[-1].add(later[-1])
    counts = counts.at[:-1].add(earlier[1:]).at[0].add(earlier[0])
    return jnp.minimum(counts, 255).astype(jnp.uint8)


_KINDS = {
    "event_drop": lambda p, key, x: lose_events(key, p, x),
    "hot_pixels": _hot_pixels,
    "time_jitter": _time_jitter,
}
