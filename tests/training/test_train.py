"""The training step: what it computes, on how many devices, how often it is traced."""

import dataclasses
import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from representative import slow
from tiny_training import (
    RATE_STUDENT,
    SHAPE,
    STUDENT,
    after_each_step,
    assert_close,
    batch,
    make,
    one_device,
    run,
    teacher_variables,
)

from snnkd_jax.data.augment import Augmentation
from snnkd_jax.data.batches import eval_batches
from snnkd_jax.data.normalisation import Normalisation
from snnkd_jax.digest import checksum
from snnkd_jax.distill.objective import Objective, Term
from snnkd_jax.distill.presets import PRESETS
from snnkd_jax.distill.terms import Dist, StrongToWeak
from snnkd_jax.dynamics.neurons import LIF, PLIF
from snnkd_jax.errors import InputError
from snnkd_jax.models import build
from snnkd_jax.parallel.compiler import quick_compile_options
from snnkd_jax.parallel.mesh import check_batch_size, data_mesh, put_batch, put_replicated
from snnkd_jax.training.compiled import compile_steps
from snnkd_jax.training.loop import evaluate, variables_of
from snnkd_jax.training.optim import make_optimizer
from snnkd_jax.training.trainer import Trainer


@pytest.mark.parametrize(
    ("preset", "network"),
    [("temporal", STUDENT), slow("bkdsnn", RATE_STUDENT)],
)
def test_eight_devices_give_the_update_of_one(preset, network):
    """Parameters, batch statistics and momentum, augmentation included; step 2 sees the rounding of step 1 as well.

    Metrics are compared less closely: a KL divergence is a small difference of logarithms.
    """
    trainer = make(preset, network, Augmentation(1, True, 3))
    if preset == "bkdsnn":
        # Correlations and the choice of steps are of the whole batch, and what is masked is of each example.
        ce, _, feature = trainer.objective.terms
        of_batch = Term("steps", StrongToWeak(2.0), 0.5), Term("kd", Dist(2.0))
        trainer = dataclasses.replace(trainer, objective=Objective((ce, *of_batch, feature)))
    assert data_mesh().size == 8
    found, expected = (after_each_step(trainer, mesh, 2) for mesh in (data_mesh(), one_device()))
    for i, rtol in enumerate((1e-5, 1e-4)):
        (state, metrics), (expected_state, expected_metrics) = found[i], expected[i]
        assert int(state.step) == i + 1
        assert_close(state, expected_state, rtol)
        assert_close(metrics, expected_metrics, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("network", [STUDENT, slow(RATE_STUDENT)], ids=["bptt", "rate"])
def test_step_is_traced_once_and_copies_nothing(monkeypatch, network):
    """Under a guard that lets neither the host's arrays in nor the device's out."""
    trainer, mesh = make("kdsnn", network), data_mesh()
    traces = []
    compute = Trainer._gradient
    monkeypatch.setattr(Trainer, "_gradient", lambda *arguments: traces.append(1) or compute(*arguments))
    compiled = compile_steps(trainer, mesh)
    state, teacher = put_replicated(mesh, jax.jit(trainer.init)()), put_replicated(mesh, teacher_variables())
    batches = [put_batch(mesh, batch(seed=i)) for i in range(4)]
    with jax.transfer_guard("disallow_explicit"):
        for data in batches:
            state, _ = compiled.train(state, teacher, data)
    assert int(state.step) == 4


@pytest.mark.slow
def test_the_transfer_guard_would_see_a_copy():
    compiled = compile_steps(make("none"), one_device())
    state = put_replicated(one_device(), make("none").init())
    with jax.transfer_guard("disallow"), pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device"):
        compiled.train(state, {}, batch())


@pytest.mark.slow
@pytest.mark.parametrize("network", [slow(STUDENT), RATE_STUDENT], ids=["bptt", "rate"])
@pytest.mark.parametrize("preset", ["kdsnn"])
def test_the_same_step_is_lowered_for_every_platform(preset, network):
    """Through `jax.export`, which needs none of the devices, with the compiler options of this one."""
    trainer = make(preset, network)
    shapes = jax.eval_shape(trainer.init), jax.eval_shape(teacher_variables), batch()
    step = compile_steps(trainer, one_device()).train
    exported = jax.export.export(step, platforms=["cuda", "tpu", "cpu"])(*shapes)  # pyright: ignore[reportArgumentType]
    assert exported.platforms == ("cuda", "tpu", "cpu")
    after = jax.tree.leaves(shapes[0])
    assert [x.shape for x in exported.out_avals[: len(after)]] == [x.shape for x in after]
    assert len(exported.mlir_module()) > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["kdsnn", "bkdsnn", "esd"])
def test_every_preset_reaches_every_parameter_through_rates(preset):
    """But `enof` and `ckdsnn`, which need a linear classifier on the last map, where the convnet has a hidden layer."""
    trainer = make(preset, RATE_STUDENT, weight_decay=0.0)
    before = jax.jit(trainer.init)()
    state, metrics = run(trainer, one_device(), 1)
    assert np.isfinite(metrics["loss"])
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max() > 0, state.params, before.params)
    assert all(jax.tree.leaves(moved))


def test_update_against_a_plain_composition():
    """Gradient of the mean-logit cross-entropy, weight decay on kernels, Nesterov momentum from rest."""
    trainer = make("none")
    start = jax.jit(trainer.init)()
    state, metrics = run(trainer, one_device(), 1)
    data = batch(seed=0)
    images = (data["images"] / 255 - 0.4) / 0.3
    images = images.astype(np.float32)

    def loss(params):
        variables = {"params": params, "batch_stats": start.batch_stats["network"]}
        (logits, _), _ = STUDENT.apply_train(variables, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits.mean(1), data["labels"]).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(start.params["network"])
    assert metrics["loss"] == pytest.approx(float(value), rel=1e-5)
    assert metrics["ce"] == pytest.approx(float(value), rel=1e-5)

    def expected(path, p, g):
        if path[-1].key == "kernel":
            g = g + 1e-3 * p
        return p - 0.1 * (g + 0.9 * g)

    new = jax.tree_util.tree_map_with_path(expected, start.params["network"], gradient)
    assert_close(state.params["network"], new, rtol=1e-5)


@pytest.mark.slow
def test_loss_is_the_weighted_sum_of_the_logged_terms():
    _, metrics = run(make("kdsnn", kd=0.3, feature=0.01), one_device(), 1)
    expected = 0.5 * metrics["ce"] + 0.3 * metrics["kd"] + 0.01 * metrics["feature"]
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["kd"] > 0
    assert metrics["feature"] > 0


@pytest.mark.slow
def test_teacher_guides_but_is_not_part_of_the_state():
    """Another teacher, another update; the teacher's arrays are untouched and nowhere in the state."""
    trainer = make("kdsnn")
    mesh = one_device()
    compiled = compile_steps(trainer, mesh)
    teacher = put_replicated(mesh, teacher_variables())
    before = np.asarray(checksum(teacher))
    states = []
    for t in (teacher, jax.tree.map(lambda x: 0.5 * x, teacher)):
        state, _ = compiled.train(put_replicated(mesh, jax.jit(trainer.init)()), t, put_batch(mesh, batch()))
        states.append(state)
    assert states[0].params.keys() == {"network", "connectors"}
    assert not np.array_equal(checksum(states[0].params), checksum(states[1].params))
    np.testing.assert_array_equal(checksum(teacher), before)
    connectors = states[0].params["connectors"]
    assert not np.array_equal(checksum(connectors), checksum(jax.jit(trainer.init)().params["connectors"]))


@pytest.mark.slow
def test_a_training_begins_with_given_weights_and_leaves_them_alone():
    """Weights and running statistics are those of the other network, a learnable tau the student's own."""
    mesh = one_device()
    teacher = build("convnet", 5, width=0.25)
    given = jax.tree.map(lambda x: x + 0.5, teacher.init(jax.random.key(9), SHAPE))
    trainer = make("none", build("convnet", 5, neuron=PLIF(), num_steps=2, width=0.25))
    compiled = compile_steps(trainer, mesh)
    given = put_replicated(mesh, given)
    drawn, begun = compiled.init(), compiled.init(given)
    for mine, theirs in ((begun.params, given["params"]), (begun.batch_stats, given["batch_stats"])):
        for path, x in jax.tree_util.tree_leaves_with_path(theirs):
            found = functools.reduce(lambda tree, key: tree[key.key], path, mine["network"])
            np.testing.assert_array_equal(found, x)
    size = len(jax.tree.leaves(begun.params))
    alike = jax.tree.map(np.array_equal, begun.params, drawn.params)
    own = [path for path, same in jax.tree_util.tree_leaves_with_path(alike) if same]
    assert {path[-1].key for path in own} == {"w"}
    assert len(own) == size - len(jax.tree.leaves(given["params"]))
    compiled.train(begun, {}, put_batch(mesh, batch()))
    assert not any(x.is_deleted() for x in jax.tree.leaves(given))


@pytest.mark.parametrize(
    ("name", "width", "told"),
    [
        ("convnet", 0.5, r"batch_stats/norm1/mean is \(8,\) in one network and \(16,\) in the other"),
        ("resnet20", 0.25, "missing"),
    ],
)
def test_weights_of_another_shape_are_refused(name, width, told):
    other = jax.eval_shape(lambda: build(name, 5, width=width).init(jax.random.key(0), SHAPE))
    with pytest.raises(InputError, match=told):
        jax.eval_shape(make("none").init, other)


@pytest.mark.slow
@pytest.mark.optimised
def test_a_quickly_compiled_program_draws_the_weights_of_an_optimised_one(monkeypatch):
    trainer = make(network=build("convnet", 5, neuron=PLIF(), num_steps=3, width=0.25))
    found, expected = compile_steps(trainer, one_device()).init(), jax.jit(trainer.init)()
    assert_close(found, expected, 1e-6)
    assert quick_compile_options("tpu") == {}
    monkeypatch.setattr("snnkd_jax.training.compiled.quick_compile_options", lambda _: {"no_such_option": "1"})
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        compile_steps(trainer, one_device()).init()


def test_state_is_donated():
    trainer, mesh = make("none"), one_device()
    state = put_replicated(mesh, jax.jit(trainer.init)())
    compile_steps(trainer, mesh).train(state, {}, put_batch(mesh, batch()))
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))


@pytest.mark.slow
def test_augmentation_is_keyed_by_seed_and_step():
    """The same step of the same seed repeats; the next step and the next seed differ."""
    trainer, mesh = make("none", augmentation=Augmentation(2)), one_device()
    compiled = compile_steps(trainer, mesh)
    other = compile_steps(dataclasses.replace(trainer, seed=4), mesh)

    def loss(steps, step):
        state = jax.jit(trainer.init)()._replace(step=jnp.asarray(step, jnp.int32))
        return float(steps.train(put_replicated(mesh, state), {}, put_batch(mesh, batch()))[1]["loss"])

    assert loss(compiled, 5) == loss(compiled, 5)
    assert len({loss(compiled, 5), loss(compiled, 6), loss(other, 5)}) == 3


@pytest.mark.slow
def test_bfloat16_trains_in_float32_state():
    student = build("convnet", 5, neuron=LIF(), num_steps=2, width=0.25, dtype=jnp.bfloat16)
    state, metrics = run(make("temporal", network=student), one_device(), 3)
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}
    assert np.isfinite(metrics["loss"])
    assert np.isfinite(metrics["grad_norm"])


def test_evaluation_counts_every_example_once():
    """13 examples in batches of 8: accuracy by step, loss and firing rates by NumPy on the network's own outputs."""
    trainer, mesh = make("none"), data_mesh()
    data = batch(13)
    variables = variables_of(jax.jit(trainer.init)())
    result = evaluate(
        compile_steps(trainer, mesh).evaluate, put_replicated(mesh, variables), eval_batches(data, 8), mesh
    )
    images = ((data["images"] / 255 - 0.4) / 0.3).astype(np.float32)
    logits, features = jax.device_get(jax.jit(STUDENT.apply)(variables, images))
    for t in range(3):
        hits = logits[:, : t + 1].mean(1).argmax(-1) == data["labels"]
        assert result["accuracy_by_step"][t] == pytest.approx(hits.mean(), rel=1e-6)
    assert result["accuracy"] == result["accuracy_by_step"][-1]
    z = logits.astype(np.float64).mean(1)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    assert result["loss"] == pytest.approx(-log_p[np.arange(13), data["labels"]].mean(), rel=1e-5)
    for name, rate in features["firing_rates"].items():
        assert result["firing_rates"][name] == pytest.approx(rate.mean(), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("student", "teacher", "preset"),
    [
        slow("resnet19", "pyramidnet18", "kdsnn"),
        slow("wrn-16-2", "vgg11", "kdsnn"),
        slow("vgg11", "wrn-28-4", "kdsnn"),
        ("airbench94", "vgg11", "kdsnn"),
        *(slow("airbench94", "vgg11", preset) for preset in ("bkdsnn", "esd")),
        slow("airbench94", "airbench94", "enof"),
        slow("resnet18", "resnet20", "ckdsnn"),
    ],
)
def test_any_teacher_can_guide_any_student(student, teacher, preset):
    """Different numbers of stages and channels: the whole step has the shapes it should have, with every preset."""
    trainer = Trainer(
        build(student, 5, neuron=LIF(), num_steps=2, width=0.1),
        PRESETS[preset],
        make_optimizer("sgd", learning_rate=0.1, num_steps=10),
        Normalisation((0.5,) * 3, (0.2,) * 3),
        Augmentation(),
        (32, 32, 3),
        seed=0,
        teacher=(other := build(teacher, 5, width=0.1)),
    )
    variables = jax.eval_shape(lambda: other.init(jax.random.key(0), (32, 32, 3)))
    images = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.uint8)
    state = jax.eval_shape(trainer.init)
    after, metrics = jax.eval_shape(
        trainer.step, state, variables, {"images": images, "labels": jax.ShapeDtypeStruct((4,), jnp.int32)}
    )
    assert jax.tree.map(lambda x: x.shape, after) == jax.tree.map(lambda x: x.shape, state)
    assert PRESETS[preset].weights.keys() <= metrics.keys()


@pytest.mark.slow
def test_blur_blanks_other_channels_at_every_step():
    """The same images twice: only the key of the step differs, and with it what the generator has to restore."""
    trainer = make("bkdsnn")
    connectors = jax.jit(trainer.init)().params["connectors"]["feature"]
    assert {name.rpartition("_")[0] for name in connectors} >= {"generate_stage2"}
    step = jax.jit(trainer.step)
    state = jax.jit(trainer.init)()
    terms = [
        float(step(state._replace(step=jnp.int32(i)), teacher_variables(), batch())[1]["feature"]) for i in (0, 0, 1)
    ]
    assert terms[0] == terms[1] != terms[2]


@pytest.mark.slow
def test_a_classifier_that_cannot_read_the_student_is_refused():
    with pytest.raises(InputError, match="the student's classifier reads a hidden layer"):
        make("enof")
    vgg = [build("airbench94", 5, neuron=neuron, width=width) for neuron, width in ((LIF(), 0.1), (None, 0.2))]
    with pytest.raises(InputError, match="classifier reads 51 channels, the student's last stage has 26"):
        dataclasses.replace(make(), network=vgg[0], teacher=vgg[1], objective=PRESETS["enof"])
    vgg = [build("vgg11", 5, neuron=neuron, width=0.1, pool="max") for neuron in (LIF(), None)]
    options = {"network": vgg[0], "teacher": vgg[1], "objective": PRESETS["enof"]}
    with pytest.raises(InputError, match="the student's classifier reads maxima of its last stage, not the mean"):
        dataclasses.replace(make(), image_shape=(32, 32, 3), **options)
    dataclasses.replace(make(), image_shape=(16, 16, 3), **options)  # of one value


def test_stages_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="no stage of the student"):
        Trainer(
            STUDENT,
            PRESETS["kdsnn-feature"],
            make_optimizer("sgd", learning_rate=0.1, num_steps=10),
            Normalisation((0.5,), (0.2,)),
            Augmentation(),
            SHAPE,
            seed=0,
            teacher=_Elsewhere(),  # pyright: ignore[reportArgumentType]
        )


class _Elsewhere:
    """A teacher whose only stage has 3x3 maps."""

    def init(self, key, shape):
        del key, shape
        return {}

    def apply(self, variables, images):
        del variables
        stages = {"stage1": images[:, :3, :3]}
        return jnp.zeros((len(images), 5)), {"stages": stages, "pre_activations": stages}


def test_batch_size_must_fit_the_devices():
    check_batch_size(16, data_mesh())
    for size in (0, 12):
        with pytest.raises(InputError, match=f"batch_size={size}.*8"):
            check_batch_size(size, data_mesh())


def test_fingerprint_sees_every_bit_and_every_place():
    tree = {"a": jnp.arange(1000, dtype=jnp.float32), "b": jnp.ones((3,), jnp.bfloat16), "c": jnp.array(5)}
    print_ = np.asarray(jax.jit(checksum)(tree))
    flipped = np.asarray(tree["a"]).copy()
    flipped.view(np.uint32)[123] ^= 1
    assert np.flatnonzero(np.asarray(checksum({**tree, "a": flipped})) != print_).tolist() == [0]
    swapped = np.asarray(tree["a"]).copy()
    swapped[[1, 2]] = swapped[[2, 1]]
    assert not np.array_equal(checksum({**tree, "a": swapped}), print_)


def test_fingerprint_sees_two_flips_that_a_plain_sum_would_not():
    """Two sign bits of one array: their sum is 0 modulo 2^32."""
    x = np.arange(1, 9, dtype=np.float32)
    y = x.copy()
    y[[2, 5]] *= -1
    assert checksum({"x": x})[0] != checksum({"x": y})[0]
