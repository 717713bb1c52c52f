"""Objectives: weighted sums of loss terms, each a function `(student, teacher, labels) -> [B]`, built-in or your own.

    loss = sum over terms of weight * mean over the batch of function(student, teacher, labels)

    def l1(student, teacher, labels):
        return abs(student.mean_logits - teacher.logits).mean(-1)

    Objective((Term("ce", CrossEntropy()), Term("l1", l1, weight=0.5)))

`student` and `teacher` are those of `snnkd_jax.distill.outputs`; `teacher` is None without one. A term declares in
`needs`, or the function in an attribute of that name, what it reads of the teacher beyond its logits.

| `needs`           | the term gets                                                                          |
| ----------------- | -------------------------------------------------------------------------------------- |
| `()`              | no teacher output                                                                      |
| `teacher`         | `teacher.logits`; implied by each of the following                                     |
| `stages`          | `teacher.stages` paired with the student's stages of the same map size                 |
| `pre_activations` | the same before the teacher's activation                                               |
| `head`            | `teacher.head`, if the teacher's classifier reads its last stage averaged over the map |
| None              | `teacher.logits` if there is a teacher                                                 |
"""

import dataclasses
import math
import numbers
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from snnkd_jax.digest import title
from snnkd_jax.distill.connector import Connector
from snnkd_jax.distill.outputs import StudentOutputs, TeacherOutputs
from snnkd_jax.distill.terms import KL, CrossEntropy, Ensemble, Margin
from snnkd_jax.errors import InputError, check_choice

MAPS = ("stages", "pre_activations")
NEEDS = ("teacher", *MAPS, "head")

# Names of other logged values, which a term would overwrite.
_LOGGED = (
    *("loss", "accuracy", "grad_norm", "firing_rate", "firing_rates", "averaged_steps", "seconds"),
    *("images_per_second", "phase", "epoch", "step", "validation"),
)

STANDARD: dict[str, Any] = {"ce": CrossEntropy(), "steps": Ensemble(), "kd": KL(), "feature": Margin()}
"""Terms that `with_weights` adds to an objective without a term of that name."""


@dataclasses.dataclass(frozen=True)
class Term:
    """A named loss term, logged under its name and unweighted; it is not computed if its weight is 0.

    Args:
        name: letters, digits, "_" and "-".
        function: maps student, teacher and labels `[B]` to one float per example, `[B]`.
        weight: finite, at least 0.
        needs: out of `NEEDS`; None: the function's attribute of that name, or as in the table above.
        connector: computes `student.connected`; None: the function's attribute of that name, or no connector.

    Raises:
        InputError: for anything else.
    """

    name: str
    function: Callable[[StudentOutputs, Any, Array], Any]
    weight: float = 1.0
    needs: tuple[str, ...] | None = None
    connector: Connector | None = None

    def __post_init__(self):
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w-]+", self.name) or self.name in _LOGGED:
            raise InputError(
                f"term {self.name!r}: a name is letters, digits, '_' and '-', and none of {', '.join(_LOGGED)}"
            )
        if not callable(self.function):
            raise InputError(f"term {self.name!r}: function={self.function!r} must take (student, teacher, labels)")
        if not isinstance(self.weight, numbers.Real) or not 0 <= self.weight < math.inf:
            raise InputError(f"term {self.name!r}: weight={self.weight!r} must be a finite number >= 0")
        connector = self.connector or getattr(self.function, "connector", None)
        object.__setattr__(self, "connector", connector)
        needs = getattr(self.function, "needs", None) if self.needs is None else self.needs
        needs = ("stages",) if needs is None and connector is not None else needs
        object.__setattr__(self, "needs", None if needs is None else tuple(needs))
        for need in self.needs or ():
            check_choice(f"term {self.name!r}: needs", need, NEEDS)
        if self.connector is not None and not self.connector.branches and not self.compares:
            raise InputError(f"term {self.name!r}: a connector needs 'stages' or 'pre_activations'; add one to needs")

    @property
    def compares(self) -> tuple[str, ...]:
        """The kinds of teacher features that the term needs; connectors map onto the first of them."""
        return tuple(need for need in self.needs or () if need in MAPS)

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs | None, labels: Array) -> Array:
        """Returns the function's values, `[B]`; raises `InputError`, with the term's name, if it fails."""
        try:
            values = self.function(student, teacher, labels)
        except InputError as error:
            raise InputError(f"term {self.name!r}: {error}") from error
        except Exception as error:
            raised = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            raise InputError(f"term {self.name!r} raised {raised}; it reads {_given(student, teacher)}") from error
        shape, dtype = getattr(values, "shape", None), getattr(values, "dtype", jnp.int32)
        if shape != labels.shape or not jnp.issubdtype(dtype, jnp.floating):
            found = type(values).__name__ if shape is None else f"{dtype}{list(shape)}"
            raise InputError(
                f"term {self.name!r} returned {found} for a batch of {len(labels)}; it must return one float per "
                f"example, of shape {list(labels.shape)}"
            )
        return values


def _given(student: StudentOutputs, teacher: TeacherOutputs | None) -> str:
    """Lists the inputs of a function for a message, and says how to get more."""
    roles = {"student": student, "teacher": teacher}
    found = {f"{role}.{kind}": getattr(x, kind, ()) for role, x in roles.items() for kind in (*MAPS, "connected")}
    maps = [f"{kind} ({', '.join(names)})" for kind, names in found.items() if names]
    given = ", ".join([f"student.logits {list(student.logits.shape)}", *maps])
    if teacher is None:
        return f"{given}, and None for the teacher; give a teacher, or a function that does without"
    return f"{given}, teacher.logits {list(teacher.logits.shape)}; name in `needs` what it reads beyond them"


@dataclasses.dataclass(frozen=True)
class Objective:
    """A weighted sum of terms; raises `InputError` unless their names differ and a weight is positive.

    Objectives with equal terms are equal; functions compare by identity, built-in ones by their constants.
    """

    terms: tuple[Term, ...]

    def __post_init__(self):
        object.__setattr__(self, "terms", (self.terms,) if isinstance(self.terms, Term) else tuple(self.terms))
        for term in self.terms:
            if not isinstance(term, Term):
                raise InputError(f"terms: {term!r} is not a Term; write Term('name', function)")
        names = [term.name for term in self.terms]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InputError(f"term {min(twice)!r}: two terms have this name; give each its own")
        if not self.active:
            raise InputError(f"every weight of the objective is 0 ({', '.join(names)}); give one a positive weight")

    @property
    def active(self) -> tuple[Term, ...]:
        """The terms with a positive weight, which are computed."""
        return tuple(term for term in self.terms if term.weight > 0)

    @property
    def weights(self) -> dict[str, float]:
        """Term name to weight."""
        return {term.name: term.weight for term in self.terms}

    @property
    def constants(self) -> dict[str, Any]:
        """The constants of the terms' dataclasses, such as `temperature`, by name; the first term takes precedence."""
        return {name: value for term in reversed(self.terms) for name, value in _constants(term.function).items()}

    @property
    def needs(self) -> frozenset[str]:
        """The teacher outputs that the active terms declare to read."""
        return frozenset(need for term in self.active for need in term.needs or ())

    @property
    def needs_teacher(self) -> bool:
        """Whether an active term declares to read a teacher."""
        return bool(self.needs)

    @property
    def reads_teacher(self) -> bool:
        """Whether an active term may read a teacher: without declared needs it gets the logits."""
        return self.needs_teacher or any(term.needs is None for term in self.active)

    def with_weights(self, weights: Mapping[str, float]) -> "Objective":
        """Replaces weights, by term; raises `InputError` for terms that neither it nor `STANDARD` has.

        A positive weight of a missing term of `STANDARD` adds it, with the temperature and `per_step` of the others.
        """
        terms = {term.name: term for term in self.terms}
        for name, weight in weights.items():
            check_choice("term", name, dict.fromkeys((*terms, *STANDARD)))
            if name in terms:
                terms[name] = dataclasses.replace(terms[name], weight=weight)
            elif weight != 0:
                terms[name] = Term(name, _with_constants(STANDARD[name], self.constants), weight)
        order = dict.fromkeys((*STANDARD, *terms)) if len(terms) > len(self.terms) else terms
        return Objective(tuple(terms[name] for name in order if name in terms))

    def with_constants(self, **constants: Any) -> "Objective":
        """Replaces constants, such as `temperature`, in all terms that have them; raises `InputError` if none has."""
        for name, value in constants.items():
            if name not in self.constants:
                raise InputError(f"{name}={value!r}: no term of this objective ({', '.join(self.weights)}) has it")
        return Objective(
            tuple(dataclasses.replace(term, function=_with_constants(term.function, constants)) for term in self.terms)
        )

    def loss(self, values: Mapping[str, Array]) -> Array:
        """Returns the weighted sum of the batch means of the active terms' values, `[B]` by name: a scalar."""
        return sum((term.weight * values[term.name].mean() for term in self.active), jnp.zeros(()))

    def described(self) -> dict[str, dict[str, Any]]:
        """Describes the terms as JSON values, by which the objective is recognised when a run is resumed."""
        return {
            term.name: {
                "function": _name(term.function),
                "weight": float(term.weight),
                "needs": None if term.needs is None else list(term.needs),
                "connector": None if term.connector is None else dataclasses.asdict(term.connector),
            }
            for term in self.terms
        }


def _name(function: Any) -> str:
    return f"{function.__module__}.{title(function)}" if hasattr(function, "__qualname__") else title(function)


def _constants(function: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(function):
        return {}
    return {field.name: getattr(function, field.name) for field in dataclasses.fields(function) if field.init}


def _with_constants(function: Any, constants: Mapping[str, Any]) -> Any:
    """Replaces those of the constants that the function has."""
    own = {name: value for name, value in constants.items() if name in _constants(function)}
    return dataclasses.replace(function, **own) if own else function
