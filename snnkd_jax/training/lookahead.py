"""Lookahead: every few steps, the weights are replaced by a moving average of their own past.

    s <- d s + (1 - d) w,  w <- s    after each n-th step i of N,  d = 0.95^n (i / N)^3
    w <- s                           after the last step

s starts from the initial weights, and the running statistics of batch norm are averaged alike. So the training returns
the last average: what fewer than n steps after it changed is lost.

Sources: Zhang et al., NeurIPS 2019, arXiv 1907.08610; Jordan 2024, arXiv 2404.00498, and its code, for the decay d.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from snnkd_jax.errors import check_count
from snnkd_jax.models import Variables


class Slow(NamedTuple):
    """The number of steps so far, and the averages of parameters and batch statistics."""

    count: Array
    params: Variables
    batch_stats: Variables


@dataclasses.dataclass(frozen=True)
class Lookahead:
    """Averages after every `every` of `num_steps` training steps; raises `InputError` for a number below 1."""

    every: int
    num_steps: int

    def __post_init__(self):
        check_count("lookahead", self.every)
        check_count("num_steps", self.num_steps)

    def init(self, params: Variables, batch_stats: Variables) -> Slow:
        """The state before the first step."""
        return Slow(jnp.zeros((), jnp.int32), *jax.tree.map(jnp.copy, (params, batch_stats)))

    def update(self, slow: Slow, params: Variables, batch_stats: Variables) -> tuple[Slow, Variables, Variables]:
        """The state after a step, and what the step's parameters and batch statistics are replaced by."""
        count = slow.count + 1
        is_due = count % self.every == 0
        decay = 0.95**self.every * (count.astype(jnp.float32) / self.num_steps) ** 3

        def average(s: Array, w: Array) -> Array:
            if not jnp.issubdtype(w.dtype, jnp.floating):  # a counter of a module of one's own
                return w
            return jnp.where(is_due, w + decay.astype(w.dtype) * (s - w), s)

        fast = (params, batch_stats)
        averages: Any = jax.tree.map(average, (slow.params, slow.batch_stats), fast)
        replace = is_due | (count == self.num_steps)
        replaced: Any = jax.tree.map(lambda s, w: jnp.where(replace, s, w), averages, fast)
        return Slow(count, *averages), *replaced
