"""The optimisation section of a configuration."""

import dataclasses
from typing import TYPE_CHECKING

from snnkd_jax.errors import InputError, check_choice, check_counts

if TYPE_CHECKING:
    import optax


@dataclasses.dataclass(frozen=True)
class OptimisationConfig:
    """Epochs, batches, optimiser and learning rate, of teacher and student."""

    epochs: int = 200
    """Training epochs of the student."""
    batch_size: int = 128
    """Images per training step, over all devices of all hosts; a multiple of their number."""
    accumulate: int = 1
    """Parts of a batch that are computed one after another, in the memory of one; batch norm sees one at a time."""
    optimizer: str = "sgd"
    """sgd (Nesterov) or adamw, for teacher and student."""
    learning_rate: float = 0.1
    """Peak learning rate; the schedule is a half cosine to 0."""
    base_batch_size: int | None = None
    """The learning rate is that of a batch of this size, and grows in proportion to --batch-size; None: it does not."""
    warmup_epochs: int = 5
    """Epochs of linear warm-up; at most all epochs but one."""
    momentum: float = 0.9
    """SGD momentum."""
    weight_decay: float = 5e-4
    """Weight decay of convolutions and dense layers, not of norms, biases and neuron parameters."""
    clip_norm: float | None = None
    """Largest global gradient norm; None: no clipping."""

    def check(self) -> None:
        """Raises `InputError` for an unknown optimiser or a value out of range."""
        check_counts(self, "epochs", "batch_size", "accumulate", "base_batch_size")
        if self.warmup_epochs < 0:
            raise InputError(f"warmup_epochs={self.warmup_epochs!r} must be at least 0")
        check_choice("optimizer", self.optimizer, ("sgd", "adamw"))

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate of a batch of `batch_size`, lr · B / B_base (Goyal et al. 2017, arXiv 1706.02677, 2.1)."""
        if self.base_batch_size is None:
            return self.learning_rate
        return self.learning_rate * self.batch_size / self.base_batch_size

    def build(self, epochs: int, steps_per_epoch: int) -> "optax.GradientTransformation":
        """The optimiser of a training of so many epochs."""
        from snnkd_jax.training.optim import make_optimizer

        return make_optimizer(
            self.optimizer,
            learning_rate=self.peak_learning_rate,
            num_steps=epochs * steps_per_epoch,
            warmup_steps=min(self.warmup_epochs, epochs - 1) * steps_per_epoch,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
        )
