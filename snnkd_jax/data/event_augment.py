"""Augmentation of frames of events on the device: the shift, flip and cutout of images, and lost events.

Each recording draws its own share rho ~ U(0, maximum) for each of the three losses, after EventDrop (Gu et al., IJCAI
2021, arXiv 2106.05836), which draws one of them:

| loss          | events that are lost                                                          |
| ------------- | ----------------------------------------------------------------------------- |
| `drop_time`   | all in round(rho T) successive frames                                         |
| `drop_area`   | all in a rectangle of round(rho H) x round(rho W) pixels, anywhere within     |
| `drop_events` | each with probability rho                                                     |
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from snnkd_jax.data.augment import Augmentation
from snnkd_jax.errors import InputError

_DROPS = ("drop_time", "drop_area", "drop_events")


@dataclasses.dataclass(frozen=True)
class EventAugmentation(Augmentation):
    """`Augmentation` of frames `[B, T, H, W, C]`, then losses of events, in the order of the table above.

    `drop_time`, `drop_area` and `drop_events` are the largest shares, in [0, 1], 0 switches off. `swap_polarity`
    exchanges the two polarities with probability 1/2, as if dark and bright were exchanged. Frames are numbers of
    events in bytes, or divided by 255. Raises `InputError` for another share, and for images that are no frames.
    """

    drop_time: float = 0.0
    drop_area: float = 0.0
    drop_events: float = 0.0
    swap_polarity: bool = False

    def __post_init__(self):
        super().__post_init__()
        for name in _DROPS:
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise InputError(f"{name}={share!r} must be a share in [0, 1], such as 0.2")

    def __call__(self, key: Array, images: Array) -> Array:
        """Augments each sequence `[B, T, H, W, C]`, all of its frames alike."""
        if images.ndim != 5:
            raise InputError(f"images have shape {images.shape}; events are augmented in frames [B, T, H, W, C]")
        images = super().__call__(key, images)
        return jax.vmap(self._lose)(jax.random.split(jax.random.fold_in(key, 1), len(images)), images)

    def _lose(self, key: Array, frames: Array) -> Array:
        keys = dict(zip((*_DROPS, "swap"), jax.random.split(key, 4), strict=True))
        t, h, w, _ = frames.shape
        if self.drop_time:
            (times,) = _window(keys["drop_time"], self.drop_time, t)
            frames = jnp.where(times[:, None, None, None], 0, frames)
        if self.drop_area:
            rows, columns = _window(keys["drop_area"], self.drop_area, h, w)
            frames = jnp.where((rows[:, None] & columns)[..., None], 0, frames)
        if self.drop_events:
            share_key, key = jax.random.split(keys["drop_events"])
            frames = lose_events(key, jax.random.uniform(share_key, maxval=self.drop_events), frames)
        if self.swap_polarity:
            frames = jnp.where(jax.random.bernoulli(keys["swap"]), frames[..., ::-1], frames)
        return frames


def lose_events(key: Array, share: ArrayLike, frames: Array) -> Array:
    """Frames of which each event is lost with probability `share`; bytes, or numbers of events divided by 255."""
    is_bytes = frames.dtype == jnp.uint8
    counts = (frames if is_bytes else jnp.round(255 * frames)).astype(jnp.int32)

    def lose(i: Array, kept: Array) -> Array:
        return kept - ((i < counts) & jax.random.bernoulli(jax.random.fold_in(key, i), share, counts.shape))

    kept = jax.lax.fori_loop(0, counts.max(), lose, counts)
    return kept.astype(jnp.uint8) if is_bytes else (kept / 255).astype(frames.dtype)


def _window(key: Array, largest: float, *lengths: int) -> list[Array]:
    """Masks `[length]` of windows anywhere within the lengths, all with the share that is drawn."""
    share_key, *keys = jax.random.split(key, 1 + len(lengths))
    share, masks = jax.random.uniform(share_key, maxval=largest), []
    for key, length in zip(keys, lengths, strict=True):
        side = jnp.round(share * length).astype(jnp.int32)
        offset = jnp.arange(length) - jax.random.randint(key, (), 0, length - side + 1)
        masks.append((offset >= 0) & (offset < side))
    return masks
