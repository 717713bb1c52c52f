"""Rate-based backpropagation: T spiking forward passes that store nothing, and one backward pass for all of them.

Reference: Yu et al., NeurIPS 2024, arXiv 2410.11488. Backpropagation through time sends a cotangent `ds[t]` back
through every step. If the loss depends on a layer only through the mean of its spikes over time,
`r = (1/T) sum_t s[t]`, then `ds[t] = dr / T` is the same at every step, and a layer needs one derivative only: that of
its mean output by a shift of its input that is the same at all steps.

    convolution, dense,    mean_t (W s[t] + b) = W r + b: the same layer on the means, exact. (Its value is known from
    average pooling, sums  the spiking pass, and is not computed again.)
    batch norm             gamma (mean_t x[t] - mu) / sigma + beta with mu, sigma of the spiking pass, which are taken
                           over batch and time. A shift of x moves mu as it moves the mean of mean_t x[t], and sigma^2
                           as it moves their variance (the variance within time stays): exact.
    max pooling            sum_i routes_i x_i over a window, routes_i the fraction of steps at which x_i was the first
                           maximum.
    neuron                 dr = kappa dx, kappa of `integrate_with_slopes`: exact for a shift of x. What is
                           lost is that a spike of the layer before moves its own and later steps, not all alike.

So there are two modules with the same parameters. The spiking one runs with its gradients stopped, and collects in
"rates" one value per element instead of one per element and step. The other one, of the layers in this file, runs on
arrays `[B, 1, ...]`, takes its values from "rates", and is differentiated. That costs T + 2 forward passes of one step,
backpropagation through time 3 T. For T = 1 the gradients are the same. A loss on single steps `z[t]` has the gradient
of the mean logits at every step, the sum over t of its derivatives with respect to `z[t]`, which weakens such losses
(`per_step` and terms `steps`, as in `temporal`, `tet`, `tks`, `tser`, `strong2weak` and `seal`): per-step
cross-entropies and divergences act nearly as those on the mean logits, and terms by which the steps teach each other
hardly at all.

kappa equals that of the authors' code (Tab-ct/rate-based-backpropagation) to 2e-7. With a hard reset that code ignores
`detach_reset`. Its own setting is `--backprop rate --surrogate sigmoid --surrogate-alpha 4 --tau 1.25 --no-decay-input
--v-reset None --detach-reset`: a decay of 0.2 = 1 - 1 / tau, a soft reset, and the reset detached.
"""

import flax.linen as nn
import jax
from jax import Array, lax
from jax.typing import ArrayLike

from snnkd_jax.dynamics.integration import Neuron
from snnkd_jax.models.activation import IntegerSpike, neuron_parameters
from snnkd_jax.models.layers import BatchNorm, MaxPool, normalise, windows


@jax.custom_jvp
def linearise(value: Array, x: Array, slope: ArrayLike) -> Array:
    """`value`, whose JVP is `slope dx`; the value of `x` is never used, so that its computation is eliminated."""
    del x, slope
    return value


@linearise.defjvp
def _(primals, tangents):
    value, _, slope = primals
    value_dot, x_dot, _ = tangents
    return value, value_dot + (slope * x_dot).astype(value_dot.dtype)


class Rate(nn.Module):
    """Replaces `activation.Spike`: currents averaged over time, `[B, 1, ...]`, to firing rates `[B, 1, ...]`."""

    neuron: Neuron

    @nn.compact
    def __call__(self, current: Array) -> Array:
        """The rates of the spiking pass, with the JVP kappa dx + sum_p kappa_p dp for the neuron's parameters p."""
        rate, kappa, slopes = (self.get_variable("rates", name) for name in ("rate", "kappa", "slopes"))
        for name, p in neuron_parameters(self).items():
            rate = rate + slopes[name] * (p - lax.stop_gradient(p))
        return linearise(rate.astype(current.dtype), current, kappa.astype(current.dtype))


class IntegerRate(IntegerSpike):
    """Replaces `activation.IntegerSpike`: currents averaged over time to rates of the same height."""

    @nn.nowrap
    def spikes(self, current: Array) -> Array:
        """Spikes per step of the spiking pass, by `Rate`."""
        return Rate(self.neuron, name="spike")(current)


class RateBatchNorm(BatchNorm):
    """Replaces `layers.BatchNorm`: normalises means over time `[B, 1, ...]` by the spiking pass's moments."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The mean over time of the spiking pass's output, `[B, 1, ...]`, of the dtype of x."""
        gamma, beta = self.affine(x.shape[-1:])
        value, mu, var = (self.get_variable("rates", name) for name in ("input", "mean", "var"))
        return normalise(linearise(value.astype(x.dtype), x, 1.0), mu, var + self.eps, gamma, beta)


class RateMaxPool(MaxPool):
    """Replaces `layers.MaxPool`, on means over time `[B, 1, ...]`."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[B, 1, H, W, C]` to the spiking pass's maxima averaged over time, `[B, 1, h, w, C]`."""
        output, routes = (self.get_variable("rates", name) for name in ("output", "routes"))
        parts = windows(x, self.window, self.stride, self.padding)
        return linearise(output, sum(route * part for route, part in zip(routes, parts, strict=True)), 1.0)
