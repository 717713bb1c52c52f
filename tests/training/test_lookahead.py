"""Lookahead against a plain loop, and a training with it, resumed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees
from tiny_training import TEACHER, make, one_device, run

from snnkd_jax.errors import InputError
from snnkd_jax.training.lookahead import Lookahead

STEPS, EVERY = 13, 5
RNG = np.random.default_rng(0)
START = {"a": RNG.normal(size=(2, 3)), "b": RNG.normal(size=4)}
MOVES = [{name: RNG.normal(size=x.shape) for name, x in START.items()} for _ in range(STEPS)]


def looped() -> list[dict[str, np.ndarray]]:
    """The weights after each step."""
    w = {name: x.copy() for name, x in START.items()}
    slow, found = {name: x.copy() for name, x in START.items()}, []
    for i in range(1, STEPS + 1):
        w = {name: x + MOVES[i - 1][name] for name, x in w.items()}
        if i % EVERY == 0:
            decay = 0.95**5 * (i / STEPS) ** 3
            slow = {name: decay * slow[name] + (1 - decay) * w[name] for name in w}
            w = {name: x.copy() for name, x in slow.items()}
        if i == STEPS:
            w = slow
        found.append(w)
    return found


def test_weights_and_statistics_are_those_of_a_loop():
    """13 steps: averages after 5 and 10, and after the last the average of step 10; one half are statistics."""
    lookahead = Lookahead(EVERY, STEPS)
    params, stats = ({name: jnp.asarray(START[name], jnp.float32)} for name in ("a", "b"))
    slow = lookahead.init(params, stats)
    update = jax.jit(lookahead.update)
    for move, expected in zip(MOVES, looped(), strict=True):
        params, stats = {"a": params["a"] + move["a"].astype("f")}, {"b": stats["b"] + move["b"].astype("f")}
        slow, params, stats = update(slow, params, stats)
        for name, x in (params | stats).items():
            agrees(x, expected[name], rtol=1e-5, atol=1e-5, name="lookahead")


def test_counters_are_not_averaged():
    lookahead = Lookahead(1, 2)
    stats = {"count": jnp.int32(7)}
    slow = lookahead.init({}, stats)
    _, _, found = lookahead.update(slow, {}, {"count": jnp.int32(9)})
    assert found["count"] == 9


def test_no_steps_between_averages_are_refused():
    with pytest.raises(InputError, match="lookahead=0"):
        Lookahead(0, 3)


@pytest.mark.slow
def test_a_training_step_ends_with_the_average():
    """Of parameters and of running statistics; the first step of a training of four."""
    plain = make(network=TEACHER)
    averaged = dataclasses.replace(plain, lookahead=Lookahead(1, 4))
    start, decay = plain.init(), 0.95 / 4**3
    fast, found = (run(trainer, one_device(), 1)[0] for trainer in (plain, averaged))
    for name in ("params", "batch_stats"):
        a, b, c = (getattr(state, name)["network"] for state in (start, fast, found))
        jax.tree.map(lambda a, b, c: np.testing.assert_allclose(c, decay * a + (1 - decay) * b, atol=1e-6), a, b, c)
    assert jax.tree.structure(found.opt_state[0]) == jax.tree.structure(fast.opt_state)
