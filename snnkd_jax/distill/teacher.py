"""A trained teacher: any function `images -> logits` or `images -> (logits, features)`.

| value                         | shape          | read by                                             |
| ----------------------------- | -------------- | --------------------------------------------------- |
| `logits`                      | `[B, K]`       | every objective with a teacher                      |
| `features["stages"]`          | `[B, H, W, C]` | terms that need `stages`: stage outputs             |
| `features["pre_activations"]` | `[B, H, W, C]` | terms that need `pre_activations`, such as `Margin` |

Features are dictionaries in forward order (JAX sorts those that a `jax.jit` inside the function returns: number their
names, or return an `OrderedDict`); an objective that needs features which the teacher does not return refuses it.
Images are float32 `[B, H, W, C]`, normalised by the statistics of the student's training set, or by the teacher's own
`normalisation`.
"""

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
from jax import Array

from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.digest import fingerprint
from snnkd_jax.errors import InputError
from snnkd_jax.models import Features
from snnkd_jax.models.recorder import capture_calls
from snnkd_jax.models.stages import check_outputs

_CALLBACK = "wrap one of NumPy arrays by snnkd_jax.callback_teacher(function, num_classes=...)"


class TeacherNetwork(Protocol):
    """A network that can guide a student: an ANN as a `Network`, or a `Teacher`."""

    def init(self, key: Array, image_shape: tuple[int, int, int]) -> Any:
        """Returns variables for images `[H, W, C]`."""

    def apply(self, variables: Any, images: Array) -> tuple[Array, Features]:
        """Returns logits `[B, K]` and features as in the table above, from normalised images `[B, H, W, C]`."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A function of variables and images, and its variables, any tree of arrays.

    `normalisation` is applied to the teacher's pixels; None: that of the student's training set. Tables and runs
    identify a teacher by its `title`, so functions without variables need different names.
    """

    function: Callable[[Any, Array], Any]
    variables: Any = ()
    normalisation: Normalisation | None = None
    name: str = "function"

    def __post_init__(self):
        if not callable(self.function) or (framework := _framework(self.function)) is not None:
            found = type(self.function).__name__ if not callable(self.function) else f"of {framework}"
            raise InputError(f"teacher {self.name!r}: its function is {found}, not a JAX function; {_CALLBACK}")

    @property
    def title(self) -> str:
        """The name, with a digest of the variables."""
        return f"{self.name}-{fingerprint(self.variables)[:8]}" if jax.tree.leaves(self.variables) else self.name

    def init(self, key: Any, image_shape: tuple[int, int, int]) -> Any:  # noqa: ARG002
        """Returns the trained variables."""
        return self.variables

    def apply(self, variables: Any, images: Array) -> tuple[Array, Features]:
        """Returns `(logits, features)` as in the table above; raises `InputError` if the function does not."""
        who = f"teacher {self.name!r}"
        try:
            outputs = self.function(variables, images)
        except Exception as error:
            if isinstance(error, InputError) or "Tracer" not in f"{type(error).__name__} {error}":
                raise
            raised = f"{type(error).__name__}, as JAX cannot trace it; if it is of another framework"
            raise InputError(f"{who}: its function raised {raised}, {_CALLBACK}") from error
        logits, features = check_outputs(who, outputs, images.shape[:1])
        return logits, features | {"firing_rates": {}}


def flax_teacher(
    module: Any,
    variables: Any,
    *,
    stages: Sequence[str] = (),
    pre_activations: Sequence[str] = (),
    normalisation: Normalisation | None = None,
    name: str = "flax",
    **arguments: Any,
) -> Teacher:
    """Wraps a Flax Linen module as a teacher.

    Args:
        module: a module whose call maps images `[B, H, W, C]` to logits `[B, K]`.
        variables: its variable collections, with "params".
        stages: paths of the submodules whose outputs `[B, H, W, C]` are the stage outputs, in forward order, such as
            "layer1/block2".
        pre_activations: paths of those whose outputs are the inputs of the stages' last activations.
        normalisation, name: as in `Teacher`.
        arguments: further arguments of the call, such as `train=False`.

    Raises:
        InputError: when it is applied, if a path names no submodule that is called.
    """
    wanted = {"stages": stages, "pre_activations": pre_activations}
    paths = {*stages, *pre_activations}

    def function(variables: Any, images: Array) -> tuple[Array, dict[str, dict[str, Array]]]:
        apply = functools.partial(module.apply, variables, images, **arguments)
        logits, calls = capture_calls(apply, lambda submodule: "/".join(submodule.path) in paths)
        found = {call.name: call.output for call in calls}
        if missing := paths - found.keys():
            raise InputError(f"teacher {name!r} has no submodule {min(missing)!r} that is called")
        return logits, {
            kind: OrderedDict((f"stage{i:02}", found[path]) for i, path in enumerate(group, 1))
            for kind, group in wanted.items()
        }

    return Teacher(function, variables, normalisation, name)


def _framework(function: Any) -> str | None:
    """The framework other than JAX whose object a function is or belongs to, None if there is none."""
    kinds = (*type(function).__mro__, *type(getattr(function, "__self__", None)).__mro__)
    roots = {kind.__module__.partition(".")[0] for kind in kinds}
    return next((root for root in ("torch", "sklearn", "tensorflow", "keras") if root in roots), None)
