"""Objectives: weighted sums of loss terms, each a function `(student, teacher, labels) -> [B]`, ready-made or your own.

    loss = sum over terms of weight * mean over the batch of function(student, teacher, labels)

    def l1(student, teacher, labels):
        return abs(student.mean_logits - teacher.logits).mean(-1)

    Objective((Term("ce", CrossEntropy()), Term("l1", l1, weight=0.5)))

`student` and `teacher` are `snnkd_jax.distill.outputs`; `teacher` is None without one. What a term reads of the
teacher beyond its logits it declares: `needs`, which a function may also have as an attribute.

| `needs`           | the term gets                                                                            |
| ----------------- | ---------------------------------------------------------------------------------------- |
| `()`              | nothing of a teacher                                                                     |
| `teacher`         | `teacher.logits`; implied by each of the following                                       |
| `stages`          | `teacher.stages` that are paired with the student's, by the size of their maps           |
| `pre_activations` | the same before the teacher's activation                                                 |
| `head`            | `teacher.head`, if the teacher's classifier reads its last stage averaged over the map   |
| None              | `teacher.logits` if there is a teacher                                                   |
"""

import dataclasses
import math
import numbers
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from snnkd_jax.distill.connector import Connector
from snnkd_jax.distill.outputs import StudentOutputs, TeacherOutputs
from snnkd_jax.distill.terms import KL, CrossEntropy, Ensemble, Margin
from snnkd_jax.errors import InputError, check_choice

MAPS = ("stages", "pre_activations")
NEEDS = ("teacher", *MAPS, "head")

# What is logged beside the terms, and would be overwritten.
_LOGGED = (
    *("loss", "accuracy", "grad_norm", "firing_rate", "firing_rates", "averaged_steps", "seconds"),
    *("images_per_second", "phase", "epoch", "step", "validation"),
)

STANDARD: dict[str, Any] = {"ce": CrossEntropy(), "steps": Ensemble(), "kd": KL(), "feature": Margin()}
"""What a weight adds to an objective that has no term of that name."""


@dataclasses.dataclass(frozen=True)
class Term:
    """A named loss term. It is logged under its name, unweighted, and not computed if its weight is 0.

    Args:
        name: letters, digits, "_" and "-".
        function: of student, teacher and labels `[B]`, to one number per example, `[B]`.
        weight: finite, at least 0.
        needs: out of `NEEDS`; None: the function's attribute of that name, or as in the table above.
        connector: maps `student.connected`; None: the function's attribute of that name, or no connector.

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
        for attribute in ("needs", "connector"):
            if getattr(self, attribute) is None:
                object.__setattr__(self, attribute, getattr(self.function, attribute, None))
        needs = ("stages",) if self.needs is None and self.connector is not None else self.needs
        object.__setattr__(self, "needs", None if needs is None else tuple(needs))
        for need in self.needs or ():
            check_choice(f"term {self.name!r}: needs", need, NEEDS)
        if self.connector is not None and not self.compares:
            raise InputError(
                f"term {self.name!r}: a connector needs 'stages' or 'pre_activations'; add one to its needs"
            )

    @property
    def compares(self) -> tuple[str, ...]:
        """The kinds of the teacher's features that the term needs; connectors map onto the first of them."""
        return tuple(need for need in self.needs or () if need in MAPS)

    def __call__(self, student: StudentOutputs, teacher: TeacherOutputs | None, labels: Array) -> Array:
        """The function's values, `[B]`; raises `InputError`, with the term's name, for whatever else it does."""
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
    """What a function is given, and how it is given more."""
    parts = [f"student.logits {list(student.logits.shape)}"]
    for role, outputs in (("student", student), ("teacher", teacher)):
        for kind in (*MAPS, "connected"):
            if names := ", ".join(getattr(outputs, kind, ())):
                parts.append(f"{role}.{kind} ({names})")
    if teacher is None:
        return f"{', '.join(parts)}, and None for the teacher; give a teacher, or a function that does without"
    return f"{', '.join(parts)}, teacher.logits {list(teacher.logits.shape)}; name in `needs` what it reads beyond them"


@dataclasses.dataclass(frozen=True)
class Objective:
    """The weighted sum of its terms, in their order; raises `InputError` unless names differ and a weight is positive.

    Equal objectives have equal terms; functions compare by identity, the ready-made ones by their constants.
    """

    terms: tuple[Term, ...]

    def __post_init__(self):
        object.__setattr__(self, "terms", (self.terms,) if isinstance(self.terms, Term) else tuple(self.terms))
        for term in self.terms:
            if not isinstance(term, Term):
                raise InputError(f"terms: {term!r} is no Term; write Term('name', function)")
        names = [term.name for term in self.terms]
        if twice := {name for name in names if names.count(name) > 1}:
            raise InputError(f"term {min(twice)!r}: two terms have this name; give each its own")
        if not self.active:
            raise InputError(f"every weight of the objective is 0 ({', '.join(names)}); give one a positive weight")

    @property
    def active(self) -> tuple[Term, ...]:
        """The terms of positive weight, which are computed."""
        return tuple(term for term in self.terms if term.weight > 0)

    @property
    def weights(self) -> dict[str, float]:
        """Term name to weight."""
        return {term.name: term.weight for term in self.terms}

    @property
    def constants(self) -> dict[str, Any]:
        """Of the terms' dataclasses, such as `temperature`, by name; the first term that has one counts."""
        return {name: value for term in reversed(self.terms) for name, value in _constants(term.function).items()}

    @property
    def needs(self) -> frozenset[str]:
        """What the computed terms declare to read of a teacher."""
        return frozenset(need for term in self.active for need in term.needs or ())

    @property
    def needs_teacher(self) -> bool:
        """Whether a term declares to read a teacher."""
        return bool(self.needs)

    @property
    def reads_teacher(self) -> bool:
        """Whether a term may read a teacher: those that do not say what they need get its logits."""
        return self.needs_teacher or any(term.needs is None for term in self.active)

    def with_weights(self, weights: Mapping[str, float]) -> "Objective":
        """With other weights, by term; raises `InputError` for terms that it and `STANDARD` do not have.

        A positive one for a missing term of `STANDARD` adds it, with the temperature and `per_step` of the others.
        """
        terms = {term.name: term for term in self.terms}
        for name, weight in weights.items():
            check_choice("term", name, dict.fromkeys((*terms, *STANDARD)))
            if name in terms:
                terms[name] = dataclasses.replace(terms[name], weight=weight)
            elif weight != 0:
                terms[name] = Term(name, _with_constants(STANDARD[name], self.constants), weight)
        if len(terms) > len(self.terms):
            return Objective(tuple(terms[name] for name in dict.fromkeys((*STANDARD, *terms)) if name in terms))
        return Objective(tuple(terms.values()))

    def with_constants(self, **constants: Any) -> "Objective":
        """With other constants, such as `temperature`, in all terms that have them; raises `InputError` if none has."""
        for name, value in constants.items():
            if name not in self.constants:
                raise InputError(f"{name}={value!r}: no term of this objective ({', '.join(self.weights)}) has it")
        return Objective(
            tuple(dataclasses.replace(term, function=_with_constants(term.function, constants)) for term in self.terms)
        )

    def loss(self, values: Mapping[str, Array]) -> Array:
        """The weighted sum of the means over the batch of the computed terms' values, `[B]` by name: a scalar."""
        return sum((term.weight * values[term.name].mean() for term in self.active), jnp.zeros(()))

    def described(self) -> dict[str, dict[str, Any]]:
        """Term name to weight, function, what it needs and its connector, in JSON values, to know it again."""
        return {
            term.name: {
                "function": title(term.function),
                "weight": float(term.weight),
                "needs": None if term.needs is None else list(term.needs),
                "connector": None if term.connector is None else dataclasses.asdict(term.connector),
            }
            for term in self.terms
        }


def title(function: Any) -> str:
    """`module.qualname` of a function; of other callables what they print, without addresses in memory."""
    if hasattr(function, "__qualname__"):
        return f"{function.__module__}.{function.__qualname__}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(function))


def _constants(function: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(function):
        return {}
    return {field.name: getattr(function, field.name) for field in dataclasses.fields(function) if field.init}


def _with_constants(function: Any, constants: Mapping[str, Any]) -> Any:
    """The function with those of the constants that it has."""
    own = {name: value for name, value in constants.items() if name in _constants(function)}
    return dataclasses.replace(function, **own) if own else function
