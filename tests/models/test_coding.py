"""Static images as spikes: what a network reads, in training, in inference and on a stream."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from representative import slow

import snnkd_jax as kd
from snnkd_jax.data.normalisation import as_stored
from snnkd_jax.errors import InputError
from snnkd_jax.models.coding import encode
from snnkd_jax.runs.config import default_config

IMAGES: Any = np.random.default_rng(0).random((3, 4, 4, 1)).astype(np.float32)
T = 5


def network(coding: Any, num_steps: int = T) -> kd.Network:
    neuron = kd.LIF(v_threshold=0.3)
    return kd.build("convnet", 3, neuron=neuron, num_steps=num_steps, width=0.1, input_coding=coding)


def test_latency_is_one_spike_per_pixel_at_the_step_of_its_brightness():
    spikes = np.asarray(encode("latency", IMAGES, T))
    expected = np.zeros((3, T, 4, 4, 1))
    for b, h, w, _ in np.ndindex(IMAGES.shape):
        expected[b, round((T - 1) * (1 - float(IMAGES[b, h, w, 0]))), h, w, 0] = 1
    np.testing.assert_array_equal(spikes, expected)


def test_poisson_spikes_have_the_rates_of_the_pixels_and_in_inference_depend_on_the_image_alone():
    spikes = np.asarray(encode("poisson", IMAGES, 4000))
    assert set(np.unique(spikes)) == {0, 1}
    deviation = np.sqrt(IMAGES * (1 - IMAGES) / 4000)
    assert (np.abs(spikes.mean(axis=1) - IMAGES) < 5 * deviation + 1e-9).all()
    few = encode("poisson", IMAGES, T)
    np.testing.assert_array_equal(encode("poisson", IMAGES[2:], T)[0], few[2])
    drawn = [np.asarray(encode("poisson", IMAGES[[0, 0]], T, jax.random.key(i))) for i in range(2)]
    assert (drawn[0] != drawn[1]).any()
    assert (drawn[0][0] != drawn[0][1]).any()


@pytest.fixture(scope="module")
def trained() -> dict[str, kd.Trained]:
    variables = network("latency").init(jax.random.key(0), (4, 4, 1))
    about = (variables, as_stored(1), (4, 4, 1), ("a", "b", "c"), "d")
    return {coding: kd.Trained(network(coding), *about) for coding in ("poisson", "latency")}


@pytest.mark.parametrize("coding", [slow("poisson"), "latency"])
def test_a_network_reads_the_spikes_of_static_images_at_once_and_step_by_step(trained, coding):
    student = trained[coding]
    spikes = np.asarray(encode(coding, IMAGES, T))
    direct = dataclasses.replace(student.network, coding="direct")
    expected, _ = jax.jit(direct.apply)(student.variables, spikes)
    logits, _ = jax.jit(student.network.apply)(student.variables, IMAGES)
    np.testing.assert_array_equal(logits, expected)
    whole = student.predict(IMAGES)
    np.testing.assert_allclose(whole.logits, expected.mean(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(student.predict(spikes).logits, whole.logits)
    state = student.start(3)
    for t in range(T):
        state, prediction = student.step(state, student.network.encode(IMAGES)[:, t])
    np.testing.assert_array_equal(prediction.logits, whole.logits)
    by_step = student.logits_by_step(IMAGES, 2)
    short, _ = jax.jit(direct.with_steps(2).apply)(student.variables, encode(coding, IMAGES, 2))
    np.testing.assert_allclose(by_step, short, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("coding", ["poisson", "latency"])
def test_a_file_of_nir_has_the_coding(trained, coding, tmp_path):
    pytest.importorskip("nir")
    from snnkd_jax.interop.nir import read_nir, write_nir

    student = trained[coding]
    write_nir(tmp_path / "a.nir", student.network, student.variables, (4, 4, 1), normalisation=student.normalisation)
    read = read_nir(tmp_path / "a.nir")
    assert read.network.coding == coding
    expected, _ = student.network.apply(student.variables, IMAGES)
    np.testing.assert_allclose(read.network.apply(read.variables, IMAGES)[0], expected, rtol=1e-3, atol=1e-3)


def test_frames_that_are_no_spikes_and_codings_that_do_not_fit_are_refused(trained):
    student = trained["latency"]
    with pytest.raises(InputError, match=r"frame are no spikes.*'latency'.*network.encode"):
        student.step(student.start(3), IMAGES)
    with pytest.raises(InputError, match=r"images are no spikes"):
        student.predict(np.ones((1, T, 4, 4, 1), np.uint8))
    with pytest.raises(InputError, match=r"input_coding='poisson'.*ANN"):
        kd.build("convnet", 3, input_coding="poisson")
    with pytest.raises(InputError, match=r"input_coding 'rate'.*direct, poisson, latency"):
        network("rate")
    with pytest.raises(InputError, match=r"input_coding='latency' is for static images.*event_digits"):
        default_config("event_digits").replace(input_coding="latency").checked()
    part = np.zeros((8, T, 4, 4, 1), np.uint8), np.arange(8) % 3
    frames = kd.data.from_arrays(train=part, test=part, validation_fraction=0.0)
    with pytest.raises(InputError, match=r"input_coding='latency'.*frames"):
        kd.fit(network("latency"), frames, batch_size=8, epochs=1)


@pytest.mark.slow
@pytest.mark.usefixtures("silent_layers")
def test_a_student_of_latency_is_trained_saved_and_taught_by_an_ann_of_images(tmp_path):
    """The teacher sees normalised images; the manifest has the coding, and training draws spikes anew."""
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 2
    pixels = rng.integers(0, 60, (64, 8, 8, 1), np.uint8)
    pixels[labels == 1, 2:6, 2:6] += 190
    data = kd.data.from_arrays(train=(pixels[:48], labels[:48]), test=(pixels[48:], labels[48:]))
    teacher = kd.fit(kd.build("convnet", 2, width=0.2), data, epochs=15, batch_size=8)
    for coding in ("latency", "poisson"):
        own = kd.build("convnet", 2, neuron=kd.LIF(v_threshold=0.3), num_steps=3, width=0.2, input_coding=coding)
        student = kd.fit(own, data, teacher=teacher, epochs=25, batch_size=8, run_dir=tmp_path / coding)
        assert student.test_accuracy > 0.8
        again = kd.load(tmp_path / coding)
        assert (again.network.coding, again.normalisation) == (coding, as_stored(1))
        np.testing.assert_array_equal(again.predict(pixels[48:]).logits, student.predict(pixels[48:]).logits)
        assert (again.predict(pixels[48:], threshold=0.6).steps <= 3).all()
