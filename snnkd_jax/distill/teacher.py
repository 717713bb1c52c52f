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
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
from jax import Array

from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.digest import fingerprint
from snnkd_jax.errors import InputError
from snnkd_jax.models import Features
from snnkd_jax.models.recorder import recorded


class TeacherNetwork(Protocol):
    """What can guide a student: an ANN as a `Network`, or a `Teacher`."""

    def init(self, key: Array, image_shape: tuple[int, int, int]) -> Any:
        """Variables for images `[H, W, C]`, of the shapes of those that it is applied with."""
        ...

    def apply(self, variables: Any, images: Array) -> tuple[Array, Features]:
        """Logits `[B, K]` and features as in the table above, of normalised images `[B, H, W, C]`."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A function of variables and images, and its variables, any tree of arrays.

    `normalisation` is of the pixels that the function takes; None: that of the student's training set. Tables and runs
    know the teacher by its `title`, so functions without variables need names of their own.
    """

    function: Callable[[Any, Array], Any]
    variables: Any = ()
    normalisation: Normalisation | None = None
    name: str = "function"

    @property
    def title(self) -> str:
        """Its name, and a digest of its variables, by which a run knows it again."""
        return f"{self.name}-{fingerprint(self.variables)[:8]}" if jax.tree.leaves(self.variables) else self.name

    def init(self, key: Any, image_shape: tuple[int, int, int]) -> Any:
        """The variables: they are trained already."""
        del key, image_shape
        return self.variables

    def apply(self, variables: Any, images: Array) -> tuple[Array, Features]:
        """`(logits, features)` as in the table above, and no firing rates.

        Raises `InputError` if the function returns anything else.
        """
        found = self.function(variables, images)
        logits: Any
        features: Any
        logits, features = found if isinstance(found, tuple) and len(found) == 2 else (found, {})
        self._check_mapping("features", features)
        for kind in ("stages", "pre_activations"):
            self._check_mapping(kind, features.get(kind, {}))
        features = {kind: dict(features.get(kind, {})) for kind in ("stages", "pre_activations")}
        named = {f"{kind} {name!r}": (x, 4) for kind, maps in features.items() for name, x in maps.items()}
        for what, (x, axes) in ({"logits": (logits, 2)} | named).items():
            shape = getattr(x, "shape", None)
            if shape is None or len(shape) != axes or shape[0] != images.shape[0]:
                expected = "[B, K]" if axes == 2 else "[B, H, W, C]"
                raise InputError(f"teacher {self.name!r}: its {what} should be {expected}, not {shape or type(x)}")
        return logits, features | {"firing_rates": {}}

    def _check_mapping(self, what: str, x: Any) -> None:
        if not isinstance(x, Mapping):
            raise InputError(f"teacher {self.name!r}: its {what} should be a dictionary, not {type(x)}")


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
        stages: the paths of the submodules whose outputs, `[B, H, W, C]`, are the stage ends, such as "layer1/block2",
            in the order of the network.
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
        logits, calls, _ = recorded(apply, lambda submodule: "/".join(submodule.path) in paths)
        found = {call.name: call.output for call in calls}
        if missing := paths - found.keys():
            raise InputError(f"teacher {name!r} has no submodule {min(missing)!r} that is called")
        features = {
            kind: {f"stage{i:02}": found[path] for i, path in enumerate(group, start=1)}
            for kind, group in wanted.items()
        }
        return logits, features

    return Teacher(function, variables, normalisation, name)
