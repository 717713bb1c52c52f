"""How far rate-based gradients point the way of backpropagation through time, layer by layer.

    python experiments/gradient_agreement.py --dataset cifar10 --student vgg11 ... [--run RUN]

Takes the arguments of `cifar_distill.py`. Cosine and ratio of norms (rate to exact) of the gradient of the mean logits'
cross-entropy on one training batch, with fresh weights, or with those of the student in RUN.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro

from snnkd_jax import data
from snnkd_jax.backend import compile_options, data_mesh
from snnkd_jax.batches import split_validation, train_batch
from snnkd_jax.checkpoint import load_network
from snnkd_jax.config import Config
from snnkd_jax.errors import InputError
from snnkd_jax.experiment import pixel_statistics
from snnkd_jax.losses import cross_entropy


def main(config: tyro.conf.OmitArgPrefixes[Config], run: Path | None = None) -> None:
    """Print the table.

    Args:
        config: As of cifar_distill.py.
        run: Finished run whose student's weights are taken.
    """
    dataset = data.load(config.dataset)
    training, _ = split_validation(dataset, config.validation_fraction, config.seed)
    batch = train_batch(training, config.batch_size, config.seed, 0)
    images, labels = pixel_statistics(dataset)(jnp.asarray(batch["images"])), jnp.asarray(batch["labels"])
    networks = [
        dataclasses.replace(config, backprop=backprop, bptt_epochs=0).build_student(dataset.num_classes)
        for backprop in ("bptt", "rate")
    ]
    variables = networks[0].init(jax.random.key(config.seed), dataset.image_shape)
    if run is not None:
        variables = load_network(run / "student", jax.eval_shape(lambda: variables), data_mesh())

    def gradient(network):
        def loss(params):
            (logits, _), _ = network.apply_train(variables | {"params": params}, images)
            return cross_entropy(logits.mean(1), labels).mean()

        return jax.jit(jax.grad(loss), compiler_options=compile_options())(variables["params"])

    exact, rate = (jax.tree_util.tree_leaves_with_path(gradient(network)) for network in networks)
    rows = [("/".join(key.key for key in path), a, b) for (path, a), (_, b) in zip(exact, rate, strict=True)]
    rows = [row for row in rows if row[0].endswith("kernel")]
    flat = [jnp.concatenate([x.ravel() for _, x in leaves]) for leaves in (exact, rate)]
    rows.append(("all", flat[0], flat[1]))
    for name, a, b in rows:
        norms = jnp.linalg.norm(a.ravel()), jnp.linalg.norm(b.ravel())
        print(f"{name:40} cosine {float(a.ravel() @ b.ravel() / norms[0] / norms[1]):6.3f}", end="")
        print(f"  norm ratio {float(norms[1] / norms[0]):6.3f}")


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
