"""Neurons against a float64 loop with a hand-written backward pass, and against numbers worked out by hand."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparison import agrees
from representative import representatives, slow

from snnkd_jax.dynamics import surrogate
from snnkd_jax.dynamics.integration import integrate, integrate_with_slopes
from snnkd_jax.dynamics.neurons import (
    IF,
    LIF,
    PLIF,
    integrate_and_fire,
    lif,
    plif,
    plif_parameter,
)
from snnkd_jax.errors import InputError

SIGMOID = surrogate.sigmoid(4.0)


def logistic(x):
    return 1 / (1 + np.exp(-x))


# Each surrogate with its derivative, written down a second time.
SURROGATES = {
    "atan": (surrogate.atan(2.0), lambda x: 1 / (1 + (np.pi * x) ** 2)),
    "sigmoid": (SIGMOID, lambda x: 4 * logistic(4 * x) * logistic(-4 * x)),
    "triangle": (surrogate.triangle(1.0), lambda x: np.where(np.abs(x) < 1, 1 - np.abs(x), 0.0)),
    "rectangle": (surrogate.rectangle(1.0), lambda x: np.where(np.abs(x) < 0.5, 1.0, 0.0)),
    "fast_sigmoid": (surrogate.fast_sigmoid(5.0), lambda x: (1 + 5 * np.abs(x)) ** -2.0),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One neuron with its constants; `w` is 0.7 for plif, `tau` 2.5 for lif."""

    neuron: str = "lif"
    v_reset: float | None = 0.0
    detach_reset: bool = False
    decay_input: bool = True
    surrogate: str = "sigmoid"
    num_steps: int = 4
    v_threshold: float = 0.8

    @property
    def row(self) -> str:
        """Of the fidelity page."""
        return f"{self.neuron}, {'soft' if self.v_reset is None else 'hard'} reset"

    def made(self):
        fields = {name: getattr(self, name) for name in ("v_threshold", "v_reset", "detach_reset")}
        fields["surrogate"] = SURROGATES[self.surrogate][0]
        if self.neuron == "integrate_and_fire":
            return IF(**fields)
        return (PLIF if self.neuron == "plif" else LIF)(2.5, decay_input=self.decay_input, **fields)

    @property
    def tau(self) -> float:
        return {"lif": 2.5, "plif": 1 + math.exp(-0.7), "integrate_and_fire": math.inf}[self.neuron]

    def __str__(self):
        reset = "soft" if self.v_reset is None else f"hard {self.v_reset}"
        flags = [name for name in ("detach_reset", "decay_input") if getattr(self, name)]
        return " ".join([self.neuron, reset, *flags, self.surrogate, f"T={self.num_steps}"])


def reference(case: Case, x, v0, spikes_cotangent, v_cotangent):
    """The equations, step by step, and the chain rule through them, in reverse.

    Returns the spikes `[B, T, n]`, the last potential, the distances `h - v_threshold`, and the derivatives of
    `sum(spikes_cotangent * spikes) + sum(v_cotangent * v)` with respect to x, v0 and tau.
    """
    tau, v_threshold, derivative = case.tau, case.v_threshold, SURROGATES[case.surrogate][1]
    v_rest = case.v_reset or 0.0
    v, before, h, s = v0, [], [], []
    for t in range(case.num_steps):
        before.append(v)
        h.append(v + (x[:, t] - (v - v_rest)) / tau if case.decay_input else v - (v - v_rest) / tau + x[:, t])
        s.append(np.where(h[t] >= v_threshold, 1.0, 0.0))
        v = h[t] - v_threshold * s[t] if case.v_reset is None else np.where(s[t] == 1, case.v_reset, h[t])

    dv, dtau, dx = v_cotangent, 0.0, np.zeros_like(x)
    for t in reversed(range(case.num_steps)):
        if case.v_reset is None:
            through_h, through_s = dv, -v_threshold * dv
        else:
            through_h, through_s = (1 - s[t]) * dv, (case.v_reset - h[t]) * dv
        ds = spikes_cotangent[:, t] + (0 if case.detach_reset else through_s)
        dh = through_h + ds * derivative(h[t] - v_threshold)
        decayed = (x[:, t] if case.decay_input else 0) - (before[t] - v_rest)
        dtau = dtau - (dh * decayed).sum() / tau**2
        dx[:, t] = dh / tau if case.decay_input else dh
        dv = dh * (1 - 1 / tau)
    return np.stack(s, axis=1), v, np.stack(h, axis=1) - v_threshold, dx, dv, dtau


def library(case: Case, x, v0, spikes_cotangent, v_cotangent, dtype):
    """The same of the library, but the last derivative is with respect to w."""
    constants = {
        "v_threshold": case.v_threshold,
        "v_reset": case.v_reset,
        "detach_reset": case.detach_reset,
        "surrogate": SURROGATES[case.surrogate][0],
    }
    x, v0, w, spikes_cotangent, v_cotangent = (
        jnp.asarray(a, dtype) for a in (x, v0, 0.7, spikes_cotangent, v_cotangent)
    )

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
    def gradients(x, v0, w):
        if case.neuron == "lif":
            spikes, v = lif(x, tau=2.5, decay_input=case.decay_input, v=v0, return_v=True, **constants)
        elif case.neuron == "plif":
            spikes, v = plif(x, w, decay_input=case.decay_input, v=v0, return_v=True, **constants)
        else:
            spikes, v = integrate_and_fire(x, v=v0, return_v=True, **constants)
        return (spikes_cotangent * spikes).sum() + (v_cotangent * v).sum(), (spikes, v)

    (dx, dv0, dw), (spikes, v) = gradients(x, v0, w)
    return spikes, v, dx, dv0, dw


def assert_agrees(case: Case, dtype: type = np.float32, rtol: float = 1e-5, row: str | None = None):
    rng = np.random.default_rng(3)
    shape = (3, case.num_steps, 40)
    # Float32 values, so that both sides start from the same numbers.
    x, v0, spikes_cotangent, v_cotangent = (
        rng.normal(mean, 1, s).astype(np.float32).astype(np.float64)
        for mean, s in [(0.8, shape), (0.2, (3, 40)), (0, shape), (0, (3, 40))]
    )
    spikes, v, distance, dx, dv0, dtau = reference(case, x, v0, spikes_cotangent, v_cotangent)
    # The test means something only if neurons spike, and if rounding cannot carry one across a kink or the threshold.
    assert 0.1 < spikes.mean() < 0.9
    assert min(np.abs(np.abs(distance) - kink).min() for kink in (0, 0.5, 1)) > 1e-5
    found = library(case, x, v0, spikes_cotangent, v_cotangent, dtype)
    agrees(found[0], spikes, name="spikes")
    dw = dtau * (1 - case.tau) if case.neuron == "plif" else 0.0  # tau = 1 + exp(-w)
    for a, b in zip(found[1:], (v, dx, dv0, dw), strict=True):
        assert a.dtype == dtype
        agrees(a, b, rtol=rtol, atol=rtol * np.abs(b).max(), name=row or case.row)


CASES = [
    Case(neuron, v_reset, detach_reset, decay_input)
    for neuron in ("lif", "plif", "integrate_and_fire")
    for v_reset in (0.0, None, -0.4)
    for detach_reset in (False, True)
    for decay_input in ((False,) if neuron == "integrate_and_fire" else (True, False))
]
# Short and long scans are compiled differently; a cycle of 5 meets every value of the constants, which have 2 or 3.
CASES = [dataclasses.replace(case, num_steps=(3, 9, 4, 1, 12)[i % 5]) for i, case in enumerate(CASES)]
CASES += [Case("plif", None, surrogate=name, num_steps=t) for name, t in zip(SURROGATES, (4, 9, 4, 11, 4), strict=True)]
CASES += [Case("plif", 0.3, num_steps=t, decay_input=False) for t in (4, 9)]
QUICK = CASES[::9]  # every neuron, reset and value of the flags, short and long scans


@pytest.mark.parametrize("case", representatives(CASES, QUICK.__contains__), ids=str)
def test_spikes_potential_and_gradients_agree_with_a_float64_loop(case):
    assert_agrees(case)


@pytest.mark.slow
@pytest.mark.optimised
@pytest.mark.parametrize("case", QUICK, ids=str)
def test_optimised_programs_agree_with_a_float64_loop(case):
    assert_agrees(case)


@pytest.mark.slow
def test_float64_currents_are_integrated_in_float64():
    with jax.enable_x64(True):
        assert_agrees(Case("plif", -0.4, surrogate="atan", num_steps=9), np.float64, rtol=1e-12, row="plif in float64")


@pytest.mark.parametrize("case", representatives(CASES[::4], QUICK[:1].__contains__), ids=str)
def test_slopes_of_the_mean_spike_count_agree_with_the_float64_loop(case):
    """kappa is what the loop's backward pass gives for a cotangent of 1/T at every step, summed over the inputs."""
    rng = np.random.default_rng(3)
    x = rng.normal(0.8, 1, (3, case.num_steps, 40)).astype(np.float32).astype(np.float64)
    rest = np.full((3, 40), case.v_reset or 0.0)
    kappa, kappa_tau = np.zeros((3, 40)), np.zeros((3, 40))
    for i, j in np.ndindex(3, 40):  # a neuron at a time, because the loop returns the sum over neurons for tau
        arguments = x[i : i + 1, :, j : j + 1], rest[i : i + 1, j : j + 1]
        cotangents = np.full((1, case.num_steps, 1), 1 / case.num_steps), np.zeros((1, 1))
        spikes, _, distance, dx, _, dtau = reference(case, *arguments, *cotangents)
        assert min(np.abs(np.abs(distance) - kink).min() for kink in (0, 0.5, 1)) > 1e-5
        kappa[i, j], kappa_tau[i, j] = dx.sum(), dtau
    found = jax.jit(lambda x, w: integrate_with_slopes(case.made(), x, {"w": w} if case.neuron == "plif" else {}))(
        jnp.asarray(x, jnp.float32), jnp.float32(0.7)
    )
    v0 = np.broadcast_to(rest, (3, 40))
    spikes = reference(case, x, v0, np.zeros_like(x), np.zeros((3, 40)))[0]
    np.testing.assert_array_equal(found[0], spikes)
    agrees(found[1], kappa, rtol=1e-5, atol=1e-5 * np.abs(kappa).max(), name="kappa")
    if case.neuron == "plif":
        kappa_w = kappa_tau * (1 - case.tau)  # tau = 1 + exp(-w)
        agrees(found[2]["w"], kappa_w, rtol=1e-5, atol=1e-5 * np.abs(kappa_w).max(), name="kappa_tau")
    else:
        assert found[2] == {}


@pytest.mark.slow
@pytest.mark.parametrize(("num_steps", "blocks"), [(4, 1), (8, 1), (16, 4), (18, 5), (11, 3)])
def test_the_current_and_one_potential_a_block_are_kept_for_the_backward_pass(num_steps, blocks):
    current = jnp.ones((2, num_steps, 10))
    _, pullback = jax.vjp(lambda x: lif(x), current)
    assert sum(x.size for x in jax.tree.leaves(pullback)) <= current.size + 20 * blocks


@pytest.mark.parametrize(
    ("run", "current", "spikes", "v"),
    [
        # h = 0.75, 1.125, 0.75, 0.625
        (functools.partial(lif, tau=2.0), [1.5, 1.5, 1.5, 0.5], [0, 1, 0, 0], 0.625),
        # the same until the spike, then from 0.125: h = 0.8125, 0.65625
        (functools.partial(lif, tau=2.0, v_reset=None), [1.5, 1.5, 1.5, 0.5], [0, 1, 0, 0], 0.65625),
        # rest at -0.5: h = 0.75, then 1.125, then from -0.5: 0.5, 0.25
        (functools.partial(lif, tau=2.0, v_reset=-0.5), [2.5, 2.75, 2.0, 0.5], [0, 1, 0, 0], 0.25),
        # h = 0.625, 0.3125 + 0.75, then from 0: 0.25, 0.125 + 0.5
        (functools.partial(lif, tau=2.0, decay_input=False), [0.625, 0.75, 0.25, 0.5], [0, 1, 0, 0], 0.625),
        # tau = 4, rest at 0.5: h = 0.5 + 0.25, 0.75 - 0.0625 + 0.5, then from 0.5: 0.5 + 0.25, 0.75 - 0.0625 + 0.0625
        (
            functools.partial(lif, tau=4.0, decay_input=False, v_reset=0.5),
            [0.25, 0.5, 0.25, 0.0625],
            [0, 1, 0, 0],
            0.75,
        ),
        (functools.partial(plif, w=0.0), [1.5, 1.5, 1.5, 0.5], [0, 1, 0, 0], 0.625),  # w = 0 is tau = 2
        (integrate_and_fire, [0.625, 0.75, 0.25, 0.5], [0, 1, 0, 0], 0.75),
        # h = 0.625, 1.375, 0.375 + 0.25, 0.625 + 0.5
        (functools.partial(integrate_and_fire, v_reset=None), [0.625, 0.75, 0.25, 0.5], [0, 1, 0, 1], 0.125),
        (functools.partial(integrate_and_fire, v_reset=-0.5), [0.75, 0.75, 1.0, 0.25], [0, 1, 0, 0], 0.75),
        (functools.partial(integrate_and_fire, v_threshold=0.25), [0.125, 0.25, 0.125, 0.0], [0, 1, 0, 0], 0.125),
    ],
)
def test_trajectory_across_a_spike_and_a_reset_worked_out_by_hand(run, current, spikes, v):
    found = run(jnp.array([current]), return_v=True)
    agrees(found[0], [spikes], name="trajectories by hand")
    agrees(found[1], [v], name="trajectories by hand")
    np.testing.assert_array_equal(run(jnp.array([current])), [spikes])


def test_single_neuron_experiment_of_the_nir_paper():
    intervals = [6, 15, 4, 3, 0, 2, 1, 2, 0, 1] + [0] * 10 + [13] + [0] * 11 + [5, 0, 14]
    spikes_in = np.concatenate([[0] * interval + [1] for interval in intervals])[:100]
    current = np.zeros((100, 10), np.float32)
    current[:, 0] = spikes_in
    assert current.sum() == 34

    def step(v, x):
        spikes, v = lif(x[None, None], tau=25.0, v_threshold=0.1, v=v, return_v=True)
        return v, (spikes[0, 0], v[0])

    _, (spikes, v) = jax.lax.scan(step, jnp.zeros(1), jnp.asarray(current.ravel()))
    agrees(np.flatnonzero(spikes), [460, 510, 710, 760], name="NIR's single neuron, spikes")
    agrees(v.max(), 0.09984, rtol=1e-4, name="NIR's single neuron, potential")
    np.testing.assert_array_equal(lif(jnp.asarray(current.reshape(1, -1)), tau=25.0, v_threshold=0.1)[0], spikes)


@pytest.mark.parametrize("pieces", [slow((1,) * 9), (4, 5), slow((1, 8))], ids=str)
@pytest.mark.parametrize("v_reset", [-0.3, None])
def test_a_stream_cut_into_pieces_gives_exactly_what_the_whole_gives(pieces, v_reset):
    run = functools.partial(lif, tau=3.0, v_reset=v_reset, return_v=True)
    current = jnp.asarray(np.random.default_rng(0).normal(1.5, 2, (2, 9, 30)), jnp.float32)
    whole, v_whole = run(current)
    v, spikes, start = None, [], 0
    for length in pieces:
        s, v = run(current[:, start : start + length], v=v)
        spikes.append(s)
        start += length
    agrees(jnp.concatenate(spikes, axis=1), whole, name="a stream in pieces")
    agrees(v, v_whole, name="a stream in pieces")
    assert 0.2 < whole.mean() < 0.8


@pytest.mark.parametrize("v_threshold", [1.0, 0.5, 0.1])
def test_a_potential_exactly_at_the_threshold_fires(v_threshold):
    below = np.nextafter(np.float32(v_threshold), np.float32(0))
    current = jnp.array([[v_threshold], [below]], jnp.float32)
    np.testing.assert_array_equal(integrate_and_fire(current, v_threshold=v_threshold), [[1], [0]])


def test_no_input_rests_at_the_reset_potential_and_without_a_state_starts_there():
    for v_reset, v_rest in ((0.0, 0.0), (-0.7, -0.7), (None, 0.0)):
        spikes, v = lif(jnp.zeros((2, 6, 3)), v_reset=v_reset, return_v=True)
        np.testing.assert_array_equal(spikes, np.zeros((2, 6, 3)))
        np.testing.assert_array_equal(v, np.full((2, 3), v_rest, np.float32))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, slow(jnp.float16)])
@pytest.mark.parametrize("run", [integrate_and_fire, functools.partial(plif, w=jnp.float32(-90.0), decay_input=False)])
def test_potential_of_a_half_precision_current_is_float32(dtype, run):
    # 0.75 + 2^-13 is 0.75 in both half precisions, so such a potential would never rise; in float32 every sum is exact.
    small = 2.0**-13
    current = jnp.full((1, 1 + 2048), small, dtype).at[0, 0].set(0.75)
    spikes, v = run(current, return_v=True)
    assert spikes.dtype == dtype
    assert v.dtype == jnp.float32
    assert np.flatnonzero(spikes[0]).tolist() == [2048]
    _, v = run(current[:, :-1], return_v=True)
    np.testing.assert_array_equal(v, [1 - small])


def test_examples_and_neurons_do_not_influence_each_other_nor_the_past():
    rng = np.random.default_rng(1)
    current = rng.normal(1, 1, (3, 6, 2, 4)).astype(np.float32)
    other = current.copy()
    other[1, 3, 0, 2] += 4.0  # one example, one neuron, from step 3 on
    spikes, v = lif(jnp.asarray(current), return_v=True)
    changed_spikes, changed_v = lif(jnp.asarray(other), return_v=True)
    differs = np.zeros(spikes.shape, bool)
    differs[1, 3:, 0, 2] = True
    np.testing.assert_array_equal(np.asarray(spikes)[~differs], np.asarray(changed_spikes)[~differs])
    np.testing.assert_array_equal(np.asarray(v)[~differs[:, -1]], np.asarray(changed_v)[~differs[:, -1]])
    assert np.any(np.asarray(spikes)[differs] != np.asarray(changed_spikes)[differs])


def test_jit_and_vmap_give_what_the_plain_call_gives():
    current = jnp.asarray(np.random.default_rng(2).normal(1, 1, (5, 3, 6, 4)), jnp.float32)
    w = jnp.linspace(-1, 1, 5)
    plain = [plif(current[i], w[i], return_v=True) for i in range(5)]
    mapped = jax.jit(jax.vmap(functools.partial(plif, return_v=True)))(current, w)
    for i in range(5):
        np.testing.assert_array_equal(mapped[0][i], plain[i][0])
        np.testing.assert_allclose(mapped[1][i], plain[i][1], rtol=1e-6, atol=1e-6)


def test_learnable_time_constant_may_differ_between_neurons():
    current = jnp.asarray(np.random.default_rng(4).normal(1, 1, (3, 4, 2, 3)), jnp.float32)
    w = jnp.array([-1.0, 0.0, 2.0])
    together = plif(current, w, return_v=True)
    for i in range(3):
        alone = lif(current[..., i], tau=1 + math.exp(-float(w[i])), return_v=True)
        np.testing.assert_array_equal(together[0][..., i], alone[0])
        np.testing.assert_allclose(together[1][..., i], alone[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("tau", "w"), [(2.0, 0.0), (1 + math.e, -1.0), (1 + math.exp(-3), 3.0)])
def test_plif_parameter_inverts_the_sigmoid(tau, w):
    agrees(plif_parameter(tau), w, rtol=1e-12, atol=1e-12, name="plif_parameter")


@pytest.mark.slow
@pytest.mark.parametrize("w", [-100.0, -30.0, 30.0, 100.0])
def test_extreme_learnable_time_constants_have_finite_gradients(w):
    # 1/tau = sigmoid(w) is 0 or 1 here, and has the slope 0: the parameter stays put and nothing becomes NaN.
    current = jnp.array([[0.5, 0.25, 1.5]])
    dw = jax.grad(lambda w: plif(current, w, return_v=True)[1].sum())(jnp.float32(w))
    np.testing.assert_allclose(dw, 0, atol=1e-9)


NAN = float("nan")
CURRENT = jnp.ones((2, 4, 3))
NEURONS = {"lif": lif, "plif": functools.partial(plif, w=0.0), "integrate_and_fire": integrate_and_fire}


@pytest.mark.parametrize("name", NEURONS)
@pytest.mark.parametrize(
    ("current", "arguments", "named"),
    [
        (CURRENT, {"v_threshold": NAN}, "v_threshold"),
        (CURRENT, {"v_threshold": float("inf")}, "v_threshold"),
        (CURRENT, {"v_threshold": 0.0}, "v_threshold"),
        (CURRENT, {"v_threshold": -1.0, "v_reset": None}, "v_threshold"),
        (CURRENT, {"v_threshold": 0.4, "v_reset": 0.5}, "v_threshold"),
        (CURRENT, {"v_threshold": 0.5, "v_reset": 0.5}, "v_threshold"),
        (CURRENT, {"v_reset": NAN}, "reset"),
        (CURRENT, {"v_reset": float("inf")}, "reset"),
        (CURRENT, {"v_reset": -float("inf")}, "reset"),
        (jnp.ones((2, 0, 3)), {}, "current"),
        (jnp.ones(4), {}, "current"),
        (jnp.ones(()), {}, "current"),
        (jnp.ones((2, 4, 3), jnp.int32), {}, "current"),
        (jnp.ones((2, 4, 3), jnp.uint8), {}, "current"),
        (jnp.ones((2, 4, 3), bool), {}, "current"),
        (CURRENT, {"v": jnp.zeros((2, 4, 3))}, "v "),
        (CURRENT, {"v": jnp.zeros(3)}, "v "),
        (CURRENT, {"v": jnp.zeros((3, 2))}, "v "),
    ],
)
def test_bad_arguments_are_refused_by_name(name, current, arguments, named):
    with pytest.raises(InputError, match=named):
        NEURONS[name](current, **arguments)


@pytest.mark.parametrize("tau", [0.5, 0.0, -2.0, NAN, float("inf")])
def test_a_time_constant_below_one_step_or_not_finite_is_refused(tau):
    with pytest.raises(InputError, match="tau"):
        lif(CURRENT, tau=tau)
    with pytest.raises(InputError, match="tau"):
        plif_parameter(tau)


def test_a_learnable_time_constant_must_start_above_one_step():
    with pytest.raises(InputError, match="tau"):
        plif_parameter(1.0)
    np.testing.assert_array_equal(lif(jnp.array([[0.25, 0.75]]), tau=1.0, return_v=True)[1], [0.75])  # lif may


def test_integrate_is_the_common_equation():
    current = jnp.asarray(np.random.default_rng(5).normal(1, 1, (2, 6, 3)), jnp.float32)
    spikes, v = integrate(LIF(3.0), current)
    expected = lif(current, tau=3.0, return_v=True)
    np.testing.assert_array_equal(spikes, expected[0])
    np.testing.assert_array_equal(v, expected[1])
