"""The compiled training and evaluation steps: each traced once, the same on one device and on many."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh

from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.distill.guidance import Targets
from snnkd_jax.distill.teacher import TeacherNetwork
from snnkd_jax.models import Variables
from snnkd_jax.parallel.compiler import compile_options, quick_compile_options
from snnkd_jax.parallel.mesh import batch_sharding, replicated, state_sharding
from snnkd_jax.training.trainer import Batch, Metrics, Trainer, TrainState, evaluate_batch, variables_of

Evaluation = Callable[[Variables, Batch], Metrics]


@dataclasses.dataclass(frozen=True)
class CompiledSteps:
    """The jitted functions of a trainer on a mesh. `teach` is None without a teacher."""

    evaluate: Evaluation
    init: Callable[..., TrainState]
    train: Callable[[TrainState, Variables, Batch], tuple[TrainState, Metrics]]
    teach: Callable[[Variables, Array, Array], Targets] | None


def compile_evaluation(
    network: TeacherNetwork, normalisation: Normalisation, mesh: Mesh, variables: Any = None
) -> Evaluation:
    """Jits the evaluation of a network: batches sharded, variables with the shardings `variables`; None: replicated."""
    whole, parts, platform = replicated(mesh), batch_sharding(mesh), mesh.devices.flat[0].platform

    def evaluate(variables: Variables, batch: Batch) -> Metrics:
        return evaluate_batch(network, normalisation, jax.lax.with_sharding_constraint(variables, whole), batch)

    shardings, options = (whole if variables is None else variables, parts), compile_options(platform)
    return jax.jit(evaluate, in_shardings=shardings, out_shardings=whole, compiler_options=options)


def compile_steps(trainer: Trainer, mesh: Mesh) -> CompiledSteps:
    """Jits the steps: state donated, sharded by `state_sharding`; batches and targets too; the rest replicated."""
    whole, parts, platform = replicated(mesh), batch_sharding(mesh), mesh.devices.flat[0].platform
    options: dict[str, Any] = {"compiler_options": compile_options(platform)}
    if mesh.shape.get("fsdp", 1) > 1:
        trainer = dataclasses.replace(trainer, gather=lambda tree: jax.lax.with_sharding_constraint(tree, whole))
    state = state_sharding(mesh, jax.eval_shape(trainer.init))
    teach = jax.jit(trainer.teach, in_shardings=(whole, whole, parts), out_shardings=parts, **options)
    return CompiledSteps(
        init=jax.jit(trainer.init, out_shardings=state, compiler_options=quick_compile_options(platform)),
        evaluate=compile_evaluation(trainer.network, trainer.normalisation, mesh, variables_of(state)),
        train=jax.jit(
            trainer.step, in_shardings=(state, whole, parts), out_shardings=(state, whole), donate_argnums=0, **options
        ),
        teach=teach if trainer.is_guided else None,
    )
