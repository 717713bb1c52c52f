"""Agreement of rate-based gradients with those of backpropagation through time, layer by layer.

    python experiments/gradient_agreement.py --dataset cifar10 --student vgg11 ... [--run RUN] [--record NAME]

Takes the arguments of `snnkd train`. Cosine similarity and ratio of norms (rate to exact) of the gradients of the
cross-entropy of the mean logits on one training batch, at initial weights, or at those of the student in RUN.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro

from snnkd_jax.cli.arguments import call
from snnkd_jax.data.batches import MemorySource
from snnkd_jax.distill.losses import cross_entropy
from snnkd_jax.files import check_writable_file
from snnkd_jax.inference.trained import load
from snnkd_jax.parallel.compiler import compile_options
from snnkd_jax.runs.command import command
from snnkd_jax.runs.config import Config
from snnkd_jax.runs.recipe import read_config
from snnkd_jax.runs.record import write_record

RESULTS = Path(__file__).parent / "results" / "speed"


def main(config: tyro.conf.OmitArgPrefixes[Config], run: Path | None = None, record: str | None = None) -> None:
    """Compare rate-based gradients with those of backpropagation through time, layer by layer.

    Args:
        config: As for `snnkd train`.
        run: Finished run whose student is used; of the other arguments, only batch size and seed count then.
        record: Write experiments/results/speed/<record>.json.
    """
    file = None if record is None else RESULTS / f"{record}.json"
    check_writable_file("record", file)
    student = None if run is None else load(run)
    if run is not None:
        config = read_config(run).replace(batch_size=config.optimisation.batch_size, seed=config.run.seed)
    dataset = config.load_data()
    training, _ = dataset.split(config.run.seed)
    batch = MemorySource(training, config.optimisation.batch_size, config.run.seed)(0)
    images, labels = dataset.normalisation(jnp.asarray(batch["images"])), jnp.asarray(batch["labels"])
    exact, rate = (
        config.replace(backprop=backprop, bptt_epochs=0).build_student(dataset.num_classes)
        for backprop in ("bptt", "rate")
    )
    fresh = exact.init(jax.random.key(config.run.seed), dataset.image_shape)
    variables = fresh if student is None else student.variables

    def gradient(network):
        def loss(params):
            (logits, _), _ = network.apply_train(variables | {"params": params}, images)
            return cross_entropy(logits.mean(1), labels).mean()

        return jax.jit(jax.grad(loss), compiler_options=compile_options())(variables["params"])

    leaves = [jax.tree_util.tree_leaves_with_path(gradient(network)) for network in (exact, rate)]
    rows = [("/".join(key.key for key in path), a, b) for (path, a), (_, b) in zip(*leaves, strict=True)]
    rows = [row for row in rows if row[0].endswith("kernel")]
    flat = [jnp.concatenate([x.ravel() for _, x in part]) for part in leaves]
    rows.append(("all", flat[0], flat[1]))
    layers = {}
    for name, a, b in rows:
        norms = jnp.linalg.norm(a.ravel()), jnp.linalg.norm(b.ravel())
        cosine, ratio = float(a.ravel() @ b.ravel() / norms[0] / norms[1]), float(norms[1] / norms[0])
        layers[name.removesuffix("/kernel")] = {"cosine": cosine, "norm_ratio": ratio}
        print(f"{name:40} cosine {cosine:6.3f}  norm ratio {ratio:6.3f}")
    if file is not None:
        of_fresh = command(config).replace("snnkd train", "python experiments/gradient_agreement.py")
        of_run = f"python experiments/gradient_agreement.py --run RUN --batch-size {config.optimisation.batch_size}"
        content = {
            "command": of_fresh if run is None else f"{of_run} --seed {config.run.seed}",
            "run_command": None if run is None else command(read_config(run)),
            "layers": layers,
            "trained": run is not None,
            "config": config.published().flat(),
        }
        write_record(file, "gradients", content)


if __name__ == "__main__":
    sys.exit(call(main))
