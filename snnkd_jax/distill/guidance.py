"""How an objective joins a student and its teacher: which of their stages are paired, and through which connectors."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from snnkd_jax.distill.connector import Connectors
from snnkd_jax.distill.objective import MAPS, Objective, Term
from snnkd_jax.distill.outputs import StudentOutputs, TeacherOutputs, time_mean
from snnkd_jax.distill.presets import presets_of_logits
from snnkd_jax.distill.teacher import TeacherNetwork
from snnkd_jax.errors import InputError
from snnkd_jax.models import Network, Variables
from snnkd_jax.models.layers import MaxPool
from snnkd_jax.models.recorder import trace_calls

# Of the batch in which the terms are checked: unlike any usual number of steps, classes or channels.
_PROBE = 61

Targets = dict[str, Any]
"""What an objective reads of a teacher, float32: `logits` `[B, K]`; `features`, by kind, its stages `[B, H, W, C]`."""


@dataclasses.dataclass(frozen=True)
class Guidance:
    """The terms of an objective for one student, with one teacher or none, for images `[H, W, C]` or so many `frames`.

    Raises `InputError` if a teacher is missing or does not give what the objective reads, or if a term fails.
    """

    objective: Objective
    student: Network
    teacher: TeacherNetwork | None
    image_shape: tuple[int, int, int]
    frames: int | None = None

    def __post_init__(self):
        if self.teacher is not None:
            self._check_teacher(self.teacher)
        elif self.objective.needs_teacher:
            names = ", ".join(repr(term.name) for term in self.objective.active if term.needs)
            raise InputError(f"this objective needs a teacher (terms {names}); give one, or these terms the weight 0")
        jax.eval_shape(self.values, *self.probe())  # each term raises for itself

    @property
    def num_classes(self) -> int:
        """K of the student's logits."""
        return self._student_outputs.logits.shape[-1]

    def init(self, key: Array) -> dict[str, Variables]:
        """Fresh `params` and `batch_stats` of the connectors, by term; an empty dictionary if there are none."""
        if not self._connectors:
            return {}
        stages = {name: jnp.zeros((1, *x.shape[2:])) for name, x in self._student_outputs.stages.items()}
        keys = self._keys(key)
        variables: dict[str, Any] = {
            name: connectors.init(keys[name], stages, train=False, blur_key=keys[name])
            for name, connectors in self._connectors.items()
        }
        return {part: {name: v[part] for name, v in variables.items()} for part in ("params", "batch_stats")}

    def targets(self, teacher_variables: Any, images: Array) -> Targets:
        """What the objective reads of the teacher's outputs for normalised images; no gradient flows into them."""
        assert self.teacher is not None
        return self._read(*self.teacher.apply(teacher_variables, images))

    def values(
        self,
        student: StudentOutputs,
        targets: Targets | None,
        labels: Array,
        teacher_variables: Any,
        connectors: Mapping[str, Any],
        key: Array,
    ) -> tuple[dict[str, Array], Variables]:
        """The computed terms, `[B]` each, by name, and the new `batch_stats` of the connectors, by term.

        Without a teacher, `targets` is None; `connectors` is as from `init`, `key` of the channels that they mask.
        """
        teacher = None if targets is None else self._outputs(teacher_variables, targets)
        connected, batch_stats = self._connect(student, connectors, key)
        values = {
            term.name: term(dataclasses.replace(student, connected=connected.get(term.name, {})), teacher, labels)
            for term in self.objective.active
        }
        return values, batch_stats

    def _connect(self, student: StudentOutputs, variables: Mapping[str, Any], key: Array) -> tuple[Any, Variables]:
        """What each term's connectors make of the student's stages, and their new `batch_stats`."""
        stages = {name: time_mean(x) for name, x in student.stages.items()} if self._connectors else {}
        keys, connected, batch_stats = self._keys(key), {}, {}
        for name, module in self._connectors.items():
            own = {part: trees[name] for part, trees in variables.items()}
            connected[name], updates = module.apply(
                own, stages, train=True, blur_key=keys[name], mutable=["batch_stats"]
            )
            batch_stats[name] = updates["batch_stats"]
        return connected, batch_stats

    def _keys(self, key: Array) -> dict[str, Array]:
        """One for each term with connectors; that of the first is `key` itself."""
        return {name: jax.random.fold_in(key, i) if i else key for i, name in enumerate(self._connectors)}

    def _read(self, logits: Array, features: Mapping[str, Any]) -> Targets:
        maps = {kind: {name: features[kind][name] for name in pairs.values()} for kind, pairs in self._compared.items()}
        return jax.lax.stop_gradient(
            jax.tree.map(lambda x: x.astype(jnp.float32), {"logits": logits, "features": maps})
        )

    def _outputs(self, teacher_variables: Any, targets: Targets) -> TeacherOutputs:
        """The targets by the names of the student's stages."""
        maps = {
            kind: {mine: targets["features"][kind][theirs] for mine, theirs in pairs.items()}
            for kind, pairs in self._compared.items()
        }
        head = _head("teacher", teacher_variables) if "head" in self.objective.needs else None
        return TeacherOutputs(targets["logits"], **maps, head=head)

    @functools.cached_property
    def _compared(self) -> dict[str, dict[str, str]]:
        """Kind of feature to student stage to teacher stage, of all terms."""
        found: dict[str, dict[str, str]] = {}
        for term in self.objective.active:
            for kind in term.compares:
                found[kind] = dict(sorted((found.get(kind, {}) | self._pairs(term, kind)).items()))
        return found

    @functools.cached_property
    def _connectors(self) -> dict[str, Connectors]:
        """Term name to its connectors."""
        found = {}
        for term in self.objective.active:
            if term.connector is not None:
                kind = term.compares[0]
                maps = self._teacher_shapes[1][kind]
                channels = tuple((mine, maps[theirs].shape[-1]) for mine, theirs in self._pairs(term, kind).items())
                found[term.name] = Connectors(channels, blur=term.connector.generator)
        return found

    def _pairs(self, term: Term, kind: str) -> dict[str, str]:
        """Student stage to teacher stage, those that a term compares."""
        pairs = pair_stages(self._student_outputs.stages, self._teacher_shapes[1][kind])
        last = term.connector is not None and term.connector.last
        return {max(pairs): pairs[max(pairs)]} if last else pairs

    def _check_teacher(self, teacher: TeacherNetwork) -> None:
        """Raises `InputError` if the two networks do not give what the objective compares."""
        logits, features = self._teacher_shapes
        student, needs = self._student_outputs, self.objective.needs
        num_classes = student.logits.shape[-1]
        if logits.shape != (1, num_classes):
            found = f"the teacher gives logits of shape {logits.shape} for one image"
            raise InputError(f"{found}, the student has {num_classes} classes")
        for kind in MAPS:
            if kind in needs and not features.get(kind):
                raise InputError(
                    f"the teacher gives no {kind.replace('_', '-')}, which this objective compares; give them "
                    f"(snnkd_jax.distill.teacher says how), or use {presets_of_logits()}"
                )
        if needs & {*MAPS, "head"} and not student.stages:
            raise InputError(
                "the student gives no stages, which this objective compares; return (logits, {'stages': {name: maps "
                f"[B, T, H, W, C]}}}}), or use {presets_of_logits()}"
            )
        for term in self.objective.active:
            if "head" in (term.needs or ()):
                roles = {"student": (self.student, student.stages)} if term.connector is None else {}
                roles |= {"teacher": (teacher, features.get("stages", {}))}
                self._check_heads(roles)

    def _check_heads(self, roles: dict[str, tuple[TeacherNetwork, Any]]) -> None:
        """Raises `InputError` unless the classifiers read means of the last stages, of one number of channels."""
        channels = {}
        for role, (network, stages) in roles.items():
            variables = jax.eval_shape(lambda network=network: network.init(jax.random.key(0), self.image_shape))
            kernel, _ = _head(role, variables)
            last = stages[max(stages)].shape[-3:] if stages else kernel.shape[:1]
            channels[role] = last[-1]
            reads = f"the {role}'s classifier reads"
            if kernel.shape[0] != last[-1]:
                raise InputError(f"{reads} a hidden layer, not its last stage; use another preset")
            seen = trace_calls(network, variables, self.image_shape) if stages else ()
            if any(isinstance(call.module, MaxPool) and call.inputs.shape[-3:] == last for call in seen):
                raise InputError(f"{reads} maxima of its last stage, not the mean; use pool='avg', or another preset")
        if len(set(channels.values())) > 1:
            raise InputError(
                f"the teacher's classifier reads {channels['teacher']} channels, the student's last stage has "
                f"{channels['student']}; use networks of one width, or another preset"
            )

    def probe(self) -> tuple[Any, ...]:
        """Arguments of `values`, as shapes."""
        key, teacher = jax.random.key(0), self.teacher
        variables = {} if teacher is None else jax.eval_shape(lambda: teacher.init(key, self.image_shape))
        targets = None if teacher is None else jax.eval_shape(self._read, *self._teacher_shapes)
        student, targets = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((_PROBE, *x.shape[1:]), x.dtype), (self._student_outputs, targets)
        )
        labels = jax.ShapeDtypeStruct((_PROBE,), jnp.int32)
        return student, targets, labels, variables, jax.eval_shape(self.init, key), key

    @functools.cached_property
    def _student_outputs(self) -> StudentOutputs:
        """Shapes, for one image."""
        return jax.eval_shape(lambda outputs: StudentOutputs.of(*outputs), self._shapes(self.student))

    @functools.cached_property
    def _teacher_shapes(self) -> tuple[Any, Any]:
        """Logits and features for one image."""
        assert self.teacher is not None
        try:
            return self._shapes(self.teacher)
        except InputError:
            raise
        except Exception as error:  # of Flax, or of whatever the function is made of
            raise InputError(f"the teacher does not take images {self.image_shape} ({error})") from error

    def _shapes(self, network: TeacherNetwork) -> tuple[Any, Any]:
        images = jnp.zeros((1, *(() if self.frames is None else (self.frames,)), *self.image_shape))
        key = jax.random.key(0)
        return jax.eval_shape(lambda: network.apply(network.init(key, self.image_shape), images))


def _head(role: str, variables: Any) -> tuple[Array, Array]:
    """Kernel `[C, K]` and bias `[K]` of the classifier, which every architecture of `snnkd_jax.models` calls "head"."""
    try:
        head = variables["params"]["head"]
        return head["kernel"], head["bias"]
    except (KeyError, TypeError, IndexError):
        missing = "params/head with kernel and bias, which this objective reads"
        raise InputError(f"the {role}'s variables have no {missing}; use {presets_of_logits()}") from None


def pair_stages(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, str]:
    """Student stage to the teacher's last stage with maps of its size, of arrays or shapes `[..., H, W, C]`.

    Others are left out; raises `InputError` if no two stages have maps of the same size.
    """
    by_size = {x.shape[-3:-1]: name for name, x in teacher.items()}
    pairs = {name: by_size[x.shape[-3:-1]] for name, x in student.items() if x.shape[-3:-1] in by_size}
    if not pairs:
        raise InputError("no stage of the student has a map of the size of one of the teacher's; use a logit preset")
    return pairs
