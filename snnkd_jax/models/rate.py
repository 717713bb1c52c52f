"""Rate-based backpropagation: T spiking forward passes without a tape, one backward pass for all of them.

Reference: Yu et al., NeurIPS 2024, arXiv 2410.11488. Backpropagation through time sends a cotangent `ds[t]` back
through every step. Assume that the loss needs no more of a layer than the mean of its spikes over time,
`r = (1/T) sum_t s[t]`. Then `ds[t] = dr / T` is the same at every step, and a layer answers one question: how does the
mean of my output move if my input moves by the same amount at all steps?

    convolution, dense,    mean_t (W s[t] + b) = W r + b: the same layer on the means, exact. (Its value is known from
    mean pooling, sums     the spiking pass, and is not computed again.)
    batch norm             gamma (mean_t x[t] - mu) / sigma + beta with mu, sigma of the spiking pass, which are taken
                           over batch and time. A shift of x moves mu as it moves the mean of mean_t x[t], and sigma^2
                           as it moves their variance (the variance within time stays): exact.
    max pooling            sum_i routes_i x_i over a window, routes_i the share of steps at which x_i was the first
                           maximum.
    neuron                 dr = kappa dx, kappa of `integrate_with_slopes`: exact for a shift of x. What is
                           lost is that a spike of the layer before moves its own and later steps, not all alike.

So there are two bodies with the same parameters. The spiking one runs with its gradients stopped and records, in the
collection "rates", one value an element instead of one an element and step; the one made of the modules of this file
runs on arrays `[B, 1, ...]`, gives every layer the value that was recorded, and is differentiated. For T = 1 the
gradient is that of backpropagation through time. A loss on single steps, as of `z[t]`, has the gradient of the mean
logits in every step: the sum over t of its derivatives with respect to `z[t]`. That leaves little of such losses
(`per_step` and terms `steps`, as in `temporal`, `tet`, `tks`, `tser` and `strong2weak`): per-step cross-entropies and
divergences act nearly as those on the mean logits, and terms by which the steps teach each other hardly at all.

Costs, in forward passes of one step: T + 2, where backpropagation through time costs 3 T.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from snnkd_jax.dynamics.integration import Neuron
from snnkd_jax.models.activation import neuron_parameters
from snnkd_jax.models.layers import BatchNorm, MaxPool, normalise, windows


@jax.custom_jvp
def linearise(value: Array, x: Array, slope: ArrayLike) -> Array:
    """`value`, which moves by `slope dx` with x; the value of `x` is never used, so what computes it is left out."""
    del x, slope
    return value


@linearise.defjvp
def _(primals, tangents):
    value, _, slope = primals
    value_dot, x_dot, _ = tangents
    return value, value_dot + (slope * x_dot).astype(value_dot.dtype)


class Rate(nn.Module):
    """In the place of `activation.Spike`: currents `[B, 1, ...]`, means over time, to firing rates `[B, 1, ...]`."""

    neuron: Neuron

    @nn.compact
    def __call__(self, current: Array) -> Array:
        """The recorded rates, whose JVP is kappa dx + sum_p kappa_p dp for the parameters p of the neuron."""
        rate, kappa, slopes = (self.get_variable("rates", name) for name in ("rate", "kappa", "slopes"))
        for name, p in neuron_parameters(self).items():
            rate = rate + slopes[name] * (p - lax.stop_gradient(p))
        return linearise(rate.astype(current.dtype), current, kappa.astype(current.dtype))


class RateBatchNorm(BatchNorm):
    """In the place of `layers.BatchNorm`: normalises means over time `[B, 1, ...]` by the spiking pass's moments."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The mean over time of what the spiking pass returned, `[B, 1, ...]`, of the dtype of x."""
        gamma, beta = self.affine(x.shape[-1:])
        recorded, mu, var = (self.get_variable("rates", name) for name in ("input", "mean", "var"))
        return normalise(linearise(recorded.astype(x.dtype), x, 1.0), mu, var + self.eps, gamma, beta)


class RateMaxPool(MaxPool):
    """In the place of `layers.MaxPool`, on means over time `[B, 1, ...]`."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, 1, H, W, C]` to the recorded mean maxima, `[B, 1, h, w, C]`."""
        output, routes = (self.get_variable("rates", name) for name in ("output", "routes"))
        parts = windows(x, self.window, self.stride, self.padding)
        return linearise(output, sum(route * part for route, part in zip(routes, parts, strict=True)), 1.0)


def with_mean_of(logits: Array, mean_logits: Array) -> Array:
    """The logits `[B, T, K]` of the spiking pass, each of which moves as their mean `[B, 1, K]` does."""
    return linearise(logits, jnp.broadcast_to(mean_logits, logits.shape), 1.0)
