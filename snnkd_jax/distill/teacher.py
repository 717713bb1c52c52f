"""A teacher that is trained already: any function `images -> logits` or `images -> (logits, features)`.

| value                         | shape          | who reads it                                                   |
| ----------------------------- | -------------- | -------------------------------------------------------------- |
| `logits`                      | `[B, K]`       | every objective with a teacher                                 |
| `features["stages"]`          | `[B, H, W, C]` | terms that need `stages`: stage outputs                        |
| `features["pre_activations"]` | `[B, H, W, C]` | terms that need `pre_activations`, such as `Margin`            |

Features are dictionaries, in the order of their names from the first layer to the last; an objective that finds none
of its own refuses the teacher. Images arrive as float32 `[B, H, W, C]`, normalised by the statistics of the student's
training set, or by those that the teacher was trained with, if it says them.
"""

import dataclasses
import functools
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


class TeacherNetwork(Protocol):
    """What can guide a student: an ANN as a `Network`, or a `Teacher`."""

    def init(self, key: Array, image_shape: tuple[int, int, int]) -> Any:
        """Variables for images `[H, W, C]`."""
        ...

    def apply(self, variables: Any, images: Array) -> tuple[Array, Features]:
        """Logits `[B, K]` and features as in the table above, of normalised images `[B, H, W, C]`."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A function of variables and images, and its variables, any tree of arrays.

    `normalisation` is of the pixels that the function takes; None: that of the student's training set. Functions
    without variables need names of their own: tables and runs know a teacher by its `title`.
    """

    function: Callable[[Any, Array], Any]
    variables: Any = ()
    normalisation: Normalisation | None = None
    name: str = "function"

    @property
    def title(self) -> str:
        """Its name, and a digest of its variables."""
        return f"{self.name}-{fingerprint(self.variables)[:8]}" if jax.tree.leaves(self.variables) else self.name

    def init(self, key: Any, image_shape: tuple[int, int, int]) -> Any:
        """The variables: they are trained already."""
        del key, image_shape
        return self.variables

    def apply(self, variables: Any, images: Array) -> tuple[Array, Features]:
        """`(logits, features)` as in the table above; raises `InputError` if the function returns anything else."""
        found = self.function(variables, images)
        logits, features = check_outputs(f"teacher {self.name!r}", found, images.shape[:1])
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
    """A Flax Linen module as a teacher.

    Args:
        module: whose call returns logits `[B, K]` of images `[B, H, W, C]`.
        variables: its collections, with "params".
        stages: the paths of the submodules whose outputs, `[B, H, W, C]`, are the stage ends, in their order, such as
            "layer1/block2".
        pre_activations: the same for what enters the activation at a stage end.
        normalisation, name: as of a `Teacher`.
        arguments: of the call, such as `train=False`.

    Raises:
        InputError: when it is applied, if a path names no submodule that was called.
    """
    wanted = {"stages": stages, "pre_activations": pre_activations}
    paths = {path for group in wanted.values() for path in group}

    def function(variables: Any, images: Array) -> tuple[Array, dict[str, dict[str, Array]]]:
        apply = functools.partial(module.apply, variables, images, **arguments)
        logits, calls = capture_calls(apply, lambda submodule: "/".join(submodule.path) in paths)
        found = {call.name: call.output for call in calls}
        if missing := paths - found.keys():
            raise InputError(f"teacher {name!r} has no submodule {min(missing)!r} that is called")
        features = {
            kind: {f"stage{i:02}": found[path] for i, path in enumerate(group, start=1)}
            for kind, group in wanted.items()
        }
        return logits, features

    return Teacher(function, variables, normalisation, name)
