"""How an objective joins a student and its teacher: which of their stages are paired, and through which connectors."""

import dataclasses
import functools
import itertools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from snnkd_jax.distill.connector import Branches, Connector, Connectors
from snnkd_jax.distill.objective import MAPS, Objective, Term
from snnkd_jax.distill.outputs import StudentOutputs, TeacherOutputs, time_mean
from snnkd_jax.distill.presets import logit_presets
from snnkd_jax.distill.teacher import TeacherNetwork
from snnkd_jax.errors import InputError
from snnkd_jax.models import Network, Variables
from snnkd_jax.models.layers import MaxPool
from snnkd_jax.models.recorder import trace_calls

# Batch size with which the terms are checked: unlike any usual number of steps, classes or channels.
_PROBE = 61

Targets = dict[str, Any]
"""What an objective reads of a teacher, float32: `logits` `[B, K]`; `features`, by kind, its stages `[B, H, W, C]`."""


@dataclasses.dataclass(frozen=True)
class Guidance:
    """The terms of an objective for a student and a teacher or none, on images `[H, W, C]` or sequences of `frames`.

    With `paired_shape` the teacher sees other images, of this shape.
    Raises `InputError` if a teacher is missing or does not give what the objective reads, or if a term fails.
    """

    objective: Objective
    student: Network
    teacher: TeacherNetwork | None
    image_shape: tuple[int, int, int]
    frames: int | None = None
    paired_shape: tuple[int, int, int] | None = None

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
        """Draws `params` and `batch_stats` of the connectors, by term; an empty dictionary if there are none."""
        if not self._connectors:
            return {}
        student = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self._student_outputs)
        keys = self._keys(key)
        variables: dict[str, Any] = {
            name: module.init(keys[name], _connected_maps(connector, student), train=False, blur_key=keys[name])
            for name, (connector, module) in self._connectors.items()
        }
        return {part: {name: v[part] for name, v in variables.items()} for part in ("params", "batch_stats")}

    def targets(self, teacher_variables: Any, images: Array) -> Targets:
        """Computes the teacher outputs that the objective reads, from normalised images and without a gradient."""
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
        """Computes the active terms, `[B]` each, by name, and the new `batch_stats` of the connectors, by term.

        Without a teacher, `targets` is None; `connectors` is as from `init`; `key` draws the masked channels.
        """
        teacher = None
        if targets is not None:
            features = targets["features"]
            maps = {
                kind: OrderedDict((mine, features[kind][theirs]) for mine, theirs in pairs.items())
                for kind, pairs in self._compared.items()
            }
            head = _head("teacher", teacher_variables) if "head" in self.objective.needs else None
            teacher = TeacherOutputs(targets["logits"], **maps, head=head)
        keys, connected, batch_stats = self._keys(key), {}, {}
        for name, (connector, module) in self._connectors.items():
            own: Any = {part: trees[name] for part, trees in connectors.items()}
            maps = _connected_maps(connector, student)
            found = module.apply(own, maps, train=True, blur_key=keys[name], mutable=["batch_stats"])
            connected[name], batch_stats[name] = found[0], found[1]["batch_stats"]
        student = dataclasses.replace(student, key=key)
        values = {
            term.name: term(dataclasses.replace(student, connected=connected.get(term.name, {})), teacher, labels)
            for term in self.objective.active
        }
        return values, batch_stats

    def _keys(self, key: Array) -> dict[str, Array]:
        """Derives a key for each term with connectors; the first one's is `key` itself."""
        return {name: jax.random.fold_in(key, i) if i else key for i, name in enumerate(self._connectors)}

    def _read(self, logits: Array, features: Mapping[str, Any]) -> Targets:
        maps = {kind: {name: features[kind][name] for name in pairs.values()} for kind, pairs in self._compared.items()}
        targets = {"logits": logits, "features": maps}
        return jax.lax.stop_gradient(jax.tree.map(lambda x: x.astype(jnp.float32), targets))

    @functools.cached_property
    def _compared(self) -> dict[str, dict[str, str]]:
        """Kind of feature to student stage to teacher stage, of all terms."""
        found: dict[str, dict[str, str]] = {}
        for term in self.objective.active:
            for kind in term.compares:
                pairs = found.get(kind, {}) | self._pairs(term, kind)
                found[kind] = {name: pairs[name] for name in self._student_outputs.stages if name in pairs}
        return found

    @functools.cached_property
    def _connectors(self) -> dict[str, tuple[Connector, Connectors | Branches]]:
        found: dict[str, tuple[Connector, Connectors | Branches]] = {}
        for term in self.objective.active:
            if term.connector is not None and term.connector.branches:
                found[term.name] = term.connector, self._branches(term)
            elif term.connector is not None:
                kind = term.compares[0]
                maps = self._teacher_shapes[1][kind]
                channels = tuple((mine, maps[theirs].shape[-1]) for mine, theirs in self._pairs(term, kind).items())
                found[term.name] = term.connector, Connectors(channels, blur=term.connector.generator)
        return found

    def _branches(self, term: Term) -> Branches:
        """The branches of the student's stages; raises `InputError` if there are fewer than two stages."""
        stages = list(self._student_outputs.stages.items())
        if len(stages) < 2:
            raise InputError(
                f"term {term.name!r} has a branch for each stage of the student but the last, and the student gives "
                f"{len(stages)} stages; return (logits, {{'stages': {{name: maps [B, T, H, W, C]}}}}) with two or "
                "more, or use another preset"
            )
        sizes = [stages[0][1].shape[2], *(x.shape[2] for _, x in stages)]
        strides = [max(1, round(before / after)) for before, after in itertools.pairwise(sizes)]
        widths = ((name, x.shape[-1]) for name, x in stages)
        return Branches(tuple((*width, s) for width, s in zip(widths, strides, strict=True)), self.num_classes)

    def _pairs(self, term: Term, kind: str) -> dict[str, str]:
        """Pairs the stages that a term compares: student stage to teacher stage."""
        pairs = pair_stages(self._student_outputs.stages, self._teacher_shapes[1][kind])
        last = term.connector is not None and term.connector.last
        return dict([list(pairs.items())[-1]]) if last else pairs

    def _check_teacher(self, teacher: TeacherNetwork) -> None:
        """Raises `InputError` if the two networks do not give what the objective compares."""
        logits, features = self._teacher_shapes
        stages, needs = self._student_outputs.stages, self.objective.needs
        if logits.shape != (1, self.num_classes):
            found = f"the teacher gives logits of shape {logits.shape} for one image"
            raise InputError(f"{found}, the student has {self.num_classes} classes")
        for kind in MAPS:
            if kind in needs and not features.get(kind):
                raise InputError(
                    f"the teacher gives no {kind.replace('_', '-')}, which this objective compares; give them "
                    f"(snnkd_jax.distill.teacher says how), or use {logit_presets()}"
                )
        if needs & {*MAPS, "head"} and not stages:
            raise InputError(
                "the student gives no stages, which this objective compares; return (logits, {'stages': {name: maps "
                f"[B, T, H, W, C]}}}}), or use {logit_presets()}"
            )
        for term in self.objective.active:
            if term.connector is not None and term.connector.pre_activations:
                self._check_currents(term, stages)
            if "head" in (term.needs or ()):
                if "stages" in term.compares:
                    self._check_last_pair(term)
                # Without a connector and the teacher's stages, the student's stage goes into the teacher's classifier.
                reads_own = term.connector is None and "stages" not in term.compares
                own = self._check_head("student", self.student, stages) if reads_own else None
                width = self._check_head("teacher", teacher, features.get("stages", {}))
                if own not in (None, width):
                    raise InputError(
                        f"the teacher's classifier reads {width} channels, the student's last stage has {own}; use "
                        "networks of the same width, or another preset"
                    )

    def _check_currents(self, term: Term, stages: Mapping[str, Any]) -> None:
        """Raises `InputError` unless the student gives the pre-activations of its stages."""
        if missing := stages.keys() - self._student_outputs.pre_activations.keys():
            raise InputError(
                f"term {term.name!r}: its connector reads the student's pre-activations, but the student gives none of "
                f"{', '.join(sorted(missing))}; return them beside its stages, or take a connector without "
                "pre_activations"
            )

    def _check_last_pair(self, term: Term) -> None:
        """Raises `InputError` unless the last pair has the teacher's last stage, which its classifier reads."""
        last, shape = list(self._teacher_shapes[1]["stages"].items())[-1]
        if list(self._pairs(term, "stages").values())[-1] != last:
            size = shape.shape[-3:-1]
            raise InputError(
                f"term {term.name!r} reads the teacher's last stage, {last}, but no stage of the student, or not its "
                f"last, has a map of its size, {size[0]}x{size[1]}; use another preset"
            )

    def _check_head(self, role: str, network: TeacherNetwork, stages: Mapping[str, Any]) -> int:
        """Returns C of the last stage; raises `InputError` unless the classifier reads its mean over the map."""
        shape = self._teacher_input[0] if role == "teacher" else self.image_shape
        variables = jax.eval_shape(lambda: network.init(jax.random.key(0), shape))
        kernel, _ = _head(role, variables)
        last = list(stages.values())[-1].shape[-3:] if stages else kernel.shape[:1]
        reads = f"the {role}'s classifier reads"
        if kernel.shape[0] != last[-1]:
            raise InputError(f"{reads} a hidden layer, not its last stage; use another preset")
        seen = trace_calls(network, variables, shape) if stages else ()
        if any(isinstance(call.module, MaxPool) and call.inputs.shape[-3:] == last for call in seen):
            raise InputError(f"{reads} maxima of its last stage, not the mean; use pool='avg', or another preset")
        return last[-1]

    def probe(self) -> tuple[Any, ...]:
        """Returns arguments of `values`, as shapes."""
        key, teacher = jax.random.key(0), self.teacher
        shape = self._teacher_input[0]
        variables = {} if teacher is None else jax.eval_shape(lambda: teacher.init(key, shape))
        targets = None if teacher is None else jax.eval_shape(self._read, *self._teacher_shapes)
        student, targets = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((_PROBE, *x.shape[1:]), x.dtype), (self._student_outputs, targets)
        )
        labels = jax.ShapeDtypeStruct((_PROBE,), jnp.int32)
        return student, targets, labels, variables, jax.eval_shape(self.init, key), key

    @functools.cached_property
    def _student_outputs(self) -> StudentOutputs:
        outputs = _shapes(self.student, self.image_shape, self.frames)
        return jax.eval_shape(lambda outputs: StudentOutputs.of(*outputs), outputs)

    @property
    def _teacher_input(self) -> tuple[tuple[int, int, int], int | None]:
        """Image shape and number of frames of what the teacher sees."""
        return (self.image_shape, self.frames) if self.paired_shape is None else (self.paired_shape, None)

    @functools.cached_property
    def _teacher_shapes(self) -> tuple[Any, Any]:
        assert self.teacher is not None
        try:
            return _shapes(self.teacher, *self._teacher_input)
        except InputError:
            raise
        except Exception as error:  # Flax and the teacher's own function raise their own
            raise InputError(f"the teacher does not take images {self._teacher_input[0]} ({error})") from error


def _shapes(network: TeacherNetwork, image_shape: tuple[int, int, int], frames: int | None) -> tuple[Any, Any]:
    """Returns the shapes of logits and features for one image."""
    images = jnp.zeros((1, *(() if frames is None else (frames,)), *image_shape))
    return jax.eval_shape(lambda: network.apply(network.init(jax.random.key(0), image_shape), images))


def _connected_maps(connector: Connector, student: StudentOutputs) -> dict[str, Array]:
    """What a connector reads: maps of the student averaged over time, `[B, H, W, C]` or `[B, 1, 1, C]`, by stage."""
    maps = student.pre_activations if connector.pre_activations else student.stages
    means = {name: time_mean(x) for name, x in maps.items()}
    return {name: x.mean(axis=(1, 2), keepdims=True) for name, x in means.items()} if connector.pool else means


def _head(role: str, variables: Any) -> tuple[Array, Array]:
    """Returns kernel `[C, K]` and bias `[K]` of the classifier, "head" in every architecture of `snnkd_jax.models`."""
    try:
        return variables["params"]["head"]["kernel"], variables["params"]["head"]["bias"]
    except (KeyError, TypeError, IndexError):
        missing = "params/head with kernel and bias, which this objective reads"
        raise InputError(f"the {role}'s variables have no {missing}; use {logit_presets()}") from None


def pair_stages(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> dict[str, str]:
    """Pairs each student stage with the teacher's last stage of the same map size, from arrays or their shapes.

    Omits the others; raises `InputError` if no two stages have maps of the same size.
    """
    by_size = {x.shape[-3:-1]: name for name, x in teacher.items()}
    pairs = {name: by_size[x.shape[-3:-1]] for name, x in student.items() if x.shape[-3:-1] in by_size}
    if not pairs:
        raise InputError("no stage of the student has a map of the size of one of the teacher's; use a logit preset")
    return pairs
