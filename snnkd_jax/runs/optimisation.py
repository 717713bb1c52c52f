"""The optimisation section of a configuration."""

import dataclasses
from typing import TYPE_CHECKING, Any

from snnkd_jax.errors import InputError, check_choice, check_count, check_counts
from snnkd_jax.runs.option import Section

if TYPE_CHECKING:
    import optax

    from snnkd_jax.distill.objective import Objective


@dataclasses.dataclass(frozen=True)
class OptimisationConfig(Section):
    """Epochs, batches, optimiser and learning rate of teacher and student."""

    epochs: int = 200
    """Training epochs of the student."""
    extend: int = 0
    """Continue a finished run for this many epochs, with a schedule and an optimiser state of their own."""
    batch_size: int = 128
    """Global batch size: images per training step over all devices of all hosts, a multiple of their number."""
    accumulate: int = 1
    """Gradient accumulation: micro-batches per batch, in the memory of one; each has its own batch norm statistics."""
    optimizer: str = "sgd"
    """sgd (Nesterov), adamw, or muon for the kernels of all layers but the classifier and adamw for the rest."""
    learning_rate: float = 0.1
    """Peak learning rate."""
    base_batch_size: int | None = None
    """Batch size for which --learning-rate is given; it is scaled linearly to --batch-size. None: no scaling."""
    warmup_epochs: int = 5
    """Epochs of linear warm-up, at most all epochs but one."""
    schedule: str = "cosine"
    """cosine: from the peak, reached after the warm-up, to 0 along half a cosine; or triangle, without --warmup-epochs:
    linearly from 0.2 of the peak to the peak in the first 23 % of the steps, and to 0.07 of it in the others."""
    momentum: float = 0.9
    """Momentum of sgd and muon."""
    weight_decay: float = 5e-4
    """Weight decay of convolution and dense kernels; none for norms, biases and neuron parameters."""
    decay_biases: bool = False
    """Weight decay of biases as well."""
    norm_bias_scale: float = 1.0
    """Learning rate of the biases of norms relative to --learning-rate."""
    whitening_bias_epochs: int | None = None
    """Epochs in which the bias of a whitening stem is trained; None: all."""
    lookahead: int | None = None
    """Steps after which the weights are replaced by a moving average of them, again and again; None: never."""
    clip_norm: float | None = None
    """Global gradient norm at which gradients are clipped; None: no clipping."""

    def check(self) -> None:
        """Raises `InputError` for an unknown optimiser or a value out of range."""
        check_counts(self, "epochs", "batch_size", "accumulate", "base_batch_size", "lookahead")
        check_count("extend", self.extend, 0)
        if self.whitening_bias_epochs is not None:
            check_count("whitening_bias_epochs", self.whitening_bias_epochs, 0)
        if self.warmup_epochs < 0:
            raise InputError(f"warmup_epochs={self.warmup_epochs!r} must be at least 0")
        check_choice("optimizer", self.optimizer, ("sgd", "adamw", "muon"))
        check_choice("schedule", self.schedule, ("cosine", "triangle"))
        if self.schedule == "triangle" and self.warmup_epochs:
            raise InputError(f"warmup_epochs={self.warmup_epochs!r}: schedule='triangle' has its own warm-up; use 0")

    def check_stable(self, objective: "Objective") -> None:
        """Raises `InputError` if a term's connectors must diverge under SGD without clipping.

        Nesterov's momentum m is stable on a quadratic of curvature c, here a term's weight times its `curvature`, for
        learning rates below 2 (1 + m) / (1 + 2 m) / c.
        """
        rate, m = self.peak_learning_rate, self.momentum
        if self.optimizer != "sgd" or self.clip_norm is not None or not 0 <= m < 1:
            return
        limit = 2 * (1 + m) / (1 + 2 * m)
        for term in objective.active:
            curvature = term.weight * getattr(term.function, "curvature", 0.0)
            if (product := rate * curvature) >= limit:
                half = limit / product / 2
                raise InputError(
                    f"{term.name}_weight={term.weight:g} diverges at a learning rate of {rate:g}: its connectors have "
                    f"the curvature {curvature:g}, and SGD with momentum={m:g} is unstable where the product of both "
                    f"is {limit:.3g} or more; use {term.name}_weight={half * term.weight:.2g} or less, "
                    f"learning_rate={half * self.learning_rate:.2g} or less, clip_norm=1 or optimizer='adamw'"
                )

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate lr · B / B_base for a batch of B images (Goyal et al. 2017, arXiv 1706.02677, 2.1)."""
        if self.base_batch_size is None:
            return self.learning_rate
        return self.learning_rate * self.batch_size / self.base_batch_size

    def build(self, epochs: int, steps_per_epoch: int) -> "optax.GradientTransformation":
        """The optimiser for a training of this many epochs."""
        from snnkd_jax.training.optim import make_optimizer

        rate, warmup_epochs = self.peak_learning_rate, min(self.warmup_epochs, epochs - 1)
        steps, warmup_steps = epochs * steps_per_epoch, warmup_epochs * steps_per_epoch
        names = ("schedule", "momentum", "weight_decay", "clip_norm", "norm_bias_scale", "decay_biases")
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.whitening_bias_epochs is not None:
            options["whitening_bias_steps"] = self.whitening_bias_epochs * steps_per_epoch
        return make_optimizer(self.optimizer, learning_rate=rate, num_steps=steps, warmup_steps=warmup_steps, **options)
