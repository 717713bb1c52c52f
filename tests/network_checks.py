"""What tests of several networks have in common: shapes, counts, outputs and gradients of a training step."""

import jax
import jax.numpy as jnp
import numpy as np
from comparison import agrees

from snnkd_jax.models import Network

IMAGES = jax.random.normal(jax.random.key(1), (6, 16, 16, 3))
LABELS = jnp.arange(6) % 5

FAMILIES = ["convnet", "vgg11", "resnet19", "wrn-16-2", "pyramidnet18", "airbench94", "airbench94-whitened"]
"""One model of each family of architectures for small images."""


def train_outputs(network: Network, variables, images=IMAGES, per_step=False):
    """Logits, batch statistics and gradients of a cross-entropy plus a term on the stages' means over time."""

    def loss(params):
        (logits, features), batch_stats = network.apply_train(variables | {"params": params}, images)
        z = logits if per_step else logits.mean(1, keepdims=True)
        ce = -jax.nn.log_softmax(z)[jnp.arange(len(images)), :, LABELS].mean()
        stages = sum(jnp.square(x.mean(1) - 0.3).mean() for x in features["stages"].values())
        return ce + stages, (logits, features, batch_stats)

    (_, aux), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    return *aux, gradients


def assert_trees_close(found, expected, rtol=1e-5, name=None):
    """Relative to the largest value of each array; an array that is 0 but for rounding counts against the others."""
    least = 0.01 * max(np.abs(x).max() for x in jax.tree.leaves(expected))

    def compare(a, b):
        scale = max(np.abs(b).max(), least)
        agrees(a / scale, b / scale, atol=rtol, name=name)

    jax.tree.map(compare, found, expected)


def shapes(network, image_shape=(32, 32, 3)):
    return jax.eval_shape(lambda key: network.init(key, image_shape), jax.random.key(0))


def count(variables) -> int:
    return sum(x.size for x in jax.tree.leaves(variables["params"]))


def moved(variables):
    """Variables with norms away from their initial values, so that a wrong use of them shows."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: np.asarray(x + 0.3 * rng.random(x.shape), np.float32), variables)
