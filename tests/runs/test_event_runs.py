"""Options of events: which sets they are for, names of folders, and a run from a folder to its report."""

import re
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import snnkd_jax as kd
from snnkd_jax.analysis.costs import measure
from snnkd_jax.analysis.observation import load_observation
from snnkd_jax.analysis.robustness import EVENT_KINDS, evaluate_noise
from snnkd_jax.cli.predict import predict
from snnkd_jax.data import EventAugmentation, event_sets
from snnkd_jax.errors import InputError
from snnkd_jax.files import write_sealed
from snnkd_jax.inference import trained as loading
from snnkd_jax.interop.stablehlo import write_artifact
from snnkd_jax.report.network import event_picture
from snnkd_jax.report.noise import noise_table, summarise
from snnkd_jax.runs.command import command
from snnkd_jax.runs.config import default_config
from snnkd_jax.runs.data import EVENT_FOLDER, EVENT_SETS, PAIRED_SETS
from snnkd_jax.runs.run_dir import run_directory

pytestmark = pytest.mark.usefixtures("silent_layers")
T, SIDE = 3, 8


def test_names_known_without_jax_are_those_of_the_library():
    from snnkd_jax.data.event_folder import PREFIX
    from snnkd_jax.data.loading import PAIRED

    assert set(EVENT_SETS) == {"event_digits", *event_sets.EVENT_SETS} <= set(kd.data.NAMES)
    assert (PREFIX, PAIRED) == (EVENT_FOLDER, PAIRED_SETS)


@pytest.mark.parametrize(
    ("dataset", "options", "told"),
    [
        ("digits", {"bin_by": "count"}, "bin_by='count' is for events, and digits has images"),
        ("digits", {"sensor_size": "8x8"}, "sensor_size='8x8'.*leave it out"),
        ("digits", {"drop_time": 0.2}, "drop_time=0.2.*leave it out"),
        ("digits", {"teacher_frames": "each"}, "teacher_frames='each'.*digits has images"),
        ("event_digits", {"teacher_frames": "all"}, "teacher_frames 'all'.*mean, channels, each, images"),
        ("event_digits", {"bin_by": "events"}, "bin_by 'events'.*time, count"),
        ("event_digits", {"student_noise": ("blur:2",)}, "student_noise.*event_digits has events"),
        ("event_digits", {"drop_area": 2.0}, "drop_area=2.0"),
        ("event_digits", {"frame_size": "8"}, "frame_size='8'.*HEIGHTxWIDTH"),
        ("digits", {"saturate": True}, "saturate=True.*digits has images"),
        ("digits", {"student_frames": "mean"}, "student_frames='mean'.*digits has images"),
        ("event_digits", {"student_frames": "all"}, "student_frames 'all'.*each, mean"),
    ],
)
def test_options_that_do_not_go_with_a_set_are_refused(dataset, options, told):
    with pytest.raises(InputError, match=told):
        default_config(dataset).replace(**options).checked()


def test_options_reach_data_teacher_and_augmentation():
    config = default_config("event_digits").replace(num_steps=6, bin_by="count", teacher_frames="channels")
    assert config.data.binning(6) == kd.data.Binning(6, "count")
    assert config.build_teacher(10).frames == kd.Frames("channels", 6)
    augmentation = config.replace(drop_events=0.3, swap_polarity=True).data.augmentation()
    assert augmentation == EventAugmentation(crop_padding=1, drop_events=0.3, swap_polarity=True)
    images = default_config("digits")
    assert (images.build_teacher(10).frames, type(images.data.augmentation())) == (None, kd.Augmentation)


def test_a_folder_is_named_without_its_path_in_commands_and_run_directories():
    config = default_config("events:/private/place/gestures").replace(sensor_size="8x8")
    assert command(config) == "snnkd train --dataset events:gestures --sensor-size 8x8 --seed 0"
    assert re.fullmatch(r"runs/events-gestures-convnet-kdsnn-response-t10-seed0-\w{6}", str(run_directory(config)))
    assert str(default_config("events:a").checked().data.dataset) == f"events:{Path('a').absolute()}"


def test_the_picture_of_events_has_its_frames_side_by_side():
    """White without events, blue for brighter, orange for darker, half as strong for half of the events."""
    frames = np.zeros((3, 2, 2, 2), np.uint8)
    frames[0, 0, 0, 1], frames[1, 1, 0, 0], frames[2, 0, 1, 1] = 4, 4, 2
    picture = event_picture(frames)
    assert picture.shape == (2, 8, 3)
    assert picture[0, 0].tolist() == [31, 111, 178]
    assert picture[1, 3].tolist() == [194, 106, 20]
    assert picture[0, 7].tolist() == [143, 183, 216]
    assert picture[0, 1].tolist() == picture[1, 6].tolist() == [255, 255, 255]
    assert (picture[:, [2, 5]] == 200).all()
    many = event_picture(np.zeros((5, 4, 150, 2), np.uint8))
    assert many.shape == (3 * 5 - 1, 2 * 151 - 1, 3)


def write_recordings(folder: Path) -> None:
    """Two classes: a bright bar that moves down, and one that moves up."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 24), ("test", 8)):
        for label in ("down", "up"):
            (folder / part / label).mkdir(parents=True)
            for i in range(n):
                t = np.sort(rng.integers(0, 900, 120))
                rows = t * SIDE // 900
                y = rows if label == "down" else SIDE - 1 - rows
                np.savez(
                    folder / part / label / f"{i}.npz", x=rng.integers(0, SIDE, 120), y=y, t=t, p=np.ones(120, int)
                )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("events")
    write_recordings(folder / "bars")
    options = {"width": 0.2, "teacher_width": 0.2, "num_steps": T, "epochs": 12, "batch_size": 8, "crop_padding": 0}
    options |= {"teacher_frames": "channels", "v_threshold": 0.3}
    options |= {"sensor_size": f"{SIDE}x{SIDE}", "data_dir": str(folder / "data"), "run_dir": str(folder / "run")}
    return default_config(f"events:{folder / 'bars'}").replace(**options, drop_events=0.2, preset="kdsnn")


@pytest.fixture(scope="module")
def trained(config) -> kd.Trained:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kd.run(config)
    return kd.load(config.run.run_dir)


@pytest.mark.slow
def test_a_run_is_resumed_to_the_same_bits_after_it_was_killed(config, tmp_path):
    class Killed(Exception):
        pass

    def killed(_):
        raise Killed

    data = config.load_data()
    network = kd.build("convnet", 2, neuron=kd.LIF(), num_steps=T, width=0.1)
    options: dict[str, Any] = {"epochs": 2, "batch_size": 8, "augment": EventAugmentation(1, drop_time=0.5)}
    whole = kd.fit(network, data, **options, run_dir=tmp_path / "a", checkpoint_every=2)
    with pytest.raises(Killed):
        kd.fit(network, data, **options, run_dir=tmp_path / "b", checkpoint_every=2, callbacks=[killed])
    resumed = kd.fit(network, data, **options, run_dir=tmp_path / "b", checkpoint_every=2)
    jax.tree.map(np.testing.assert_array_equal, resumed.variables, whole.variables)


@pytest.mark.slow
@pytest.mark.parametrize("reading", ["mean", "channels", "each"])
def test_each_kind_of_teacher_teaches_by_logits_and_features(config, reading):
    """The student's loss has both terms, and the teacher's own sequences give the logits of the training."""
    data = config.load_data()
    teacher = kd.fit(kd.build("convnet", 2, width=0.2, frames=kd.Frames(reading, T)), data, epochs=1, batch_size=8)
    student = kd.build("convnet", 2, neuron=kd.LIF(), num_steps=T, width=0.1)
    taught = kd.fit(student, data, teacher=teacher, objective=kd.PRESETS["kdsnn"], epochs=1, batch_size=8)
    (entry,) = taught.history
    assert entry["kd"] > 0
    assert entry["feature"] > 0
    assert teacher.test_accuracy == (teacher.predict(data.test_images).classes == data.test_labels).mean()


@pytest.mark.slow
def test_a_finished_run_is_predicted_streamed_and_drawn(config, trained, capsys):
    data = config.load_data()
    whole = trained.predict(data.test_images)
    assert trained.test_accuracy == (whole.classes == data.test_labels).mean() > 0.8
    state = trained.start(len(data.test_images))
    for t in range(T):
        state, prediction = trained.step(state, data.test_images[:, t])
    np.testing.assert_array_equal(prediction.logits, whole.logits)
    file = Path(config.data.dataset.removeprefix("events:")) / "test" / "up" / "0.npz"
    predict(Path(config.run.run_dir), [file])
    *told, last, _ = capsys.readouterr().out.splitlines()
    assert last == f"{file}: {whole.names[8]}, confidence {whole.confidence[8]:.3f}, time steps {T}"
    first = [trained.predict(data.test_images[8:9, :t]) for t in range(1, T + 1)]
    assert told == [
        f"{file}, frame {t} of {T}: {one.names[0]}, confidence {one.confidence[0]:.3f}"
        for t, one in enumerate(first, 1)
    ]
    predict(Path(config.run.run_dir), [file], threshold=0.0)
    assert capsys.readouterr().out.splitlines()[1].endswith("time steps 1")
    observed = load_observation(Path(config.run.run_dir) / "student" / "observation.npz")
    np.testing.assert_array_equal(observed.image, data.test_images[0])
    assert "first recording of the test set, 8 × 8 pixels" in (Path(config.run.run_dir) / "report.html").read_text()


@pytest.mark.slow
def test_the_first_layer_costs_an_accumulation_per_event_and_weight(config, trained):
    """By hand: a 3x3 convolution connects a pixel with 9 outputs per channel, 6 at an edge, 4 in a corner."""
    frames = config.load_data().test_images
    cost = measure(trained, frames, 8)
    first = next(iter(cost.layers.values()))
    axis = np.array([2, *[3] * (SIDE - 2), 2])
    channels = trained.variables["params"][first.name]["conv"]["kernel"].shape[-1]
    expected = (frames.sum(axis=(0, 1, 4)) * np.outer(axis, axis)).sum() * channels
    assert frames.max() > 1
    assert (first.operations, first.macs) == ("AC", 0.0)
    assert first.acs == pytest.approx(expected / len(frames))
    teacher = kd.load(config.run.run_dir, "teacher")
    assert next(iter(measure(teacher, frames, 8).layers.values())).operations == "MAC"


@pytest.mark.slow
def test_noise_of_a_run_is_that_of_event_cameras(config, trained):
    data = config.load_data()
    options: dict[str, Any] = {"levels": (0, 5), "batch_size": 8}
    found = evaluate_noise(trained, data.test_images, data.test_labels, 0, **options)
    assert list(found["kinds"]) == list(EVENT_KINDS)
    assert found["clean"] == pytest.approx(trained.test_accuracy)
    assert list(found["mean"]) == ["event", "layer", "all"]
    assert "mean of the 3 on events" in noise_table(summarise({"student": [found]}))
    with pytest.raises(InputError, match=r"kind 'blur'.*event_drop"):
        evaluate_noise(trained, data.test_images, data.test_labels, 0, kinds=["blur"], **options)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_an_artifact_of_events_takes_frames(config, trained, tmp_path, role):
    network = kd.load(config.run.run_dir, role)
    write_artifact(network, tmp_path, role)
    read = jax.export.deserialize(bytearray((tmp_path / f"{role}.stablehlo").read_bytes()))
    frames = config.load_data().test_images[:3]
    found = read.call(frames)
    np.testing.assert_allclose(found.mean(axis=1), network.predict(frames).logits, rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match=r"num_steps=7.*3 frames"):
        write_artifact(trained, tmp_path, num_steps=7)


@pytest.mark.slow
def test_a_student_of_events_is_written_to_nir_and_read(config, trained, tmp_path):
    pytest.importorskip("nir")
    from snnkd_jax.interop.nir import read_nir, write_nir

    normalisation = trained.normalisation
    write_nir(tmp_path / "a.nir", trained.network, trained.variables, trained.image_shape, normalisation=normalisation)
    read = read_nir(tmp_path / "a.nir")
    frames = jnp.asarray(normalisation(config.load_data().test_images))
    expected = trained.network.apply(trained.variables, frames)[0]
    np.testing.assert_allclose(read.network.apply(read.variables, frames)[0], expected, rtol=1e-3, atol=1e-3)
    assert read.normalisation is not None
    np.testing.assert_allclose(read.normalisation.std, normalisation.std, rtol=1e-6)


@pytest.mark.parametrize("directory", ["", "student"])
def test_recordings_are_divided_and_counted_as_in_training(tmp_path, monkeypatch, directory):
    """A pixel of a 32x32 camera with 300 events, of which half come in the last tenth of the time."""
    config = default_config(f"events:{tmp_path}").replace(bin_by="count", saturate=True, sensor_size="32x32")
    write_sealed(tmp_path / "config.json", {"config": config.flat()})
    t = np.concatenate([np.linspace(0, 900, 150), np.linspace(901, 1000, 150)]).astype(int)
    pixel = np.full(300, 31)
    np.savez(tmp_path / "a.npz", x=pixel, y=pixel, t=t, p=np.ones(300, int))
    seen = []

    class Network:
        reads_events, num_frames, image_shape, streams = True, 1, (8, 8, 2), False

        def predict(self, frames, *_):
            seen.append(frames)
            raise Seen

    class Seen(Exception):
        pass

    monkeypatch.setattr(loading, "load", lambda *_: Network())
    with pytest.raises(Seen):
        predict(tmp_path / directory, [tmp_path / "a.npz"])
    assert (seen[0].max(), seen[0][0, 0, 7, 7, 1]) == (255, 255)
    Network.num_frames = 2
    cases: list[tuple[Any, list[int]]] = [(None, [150, 150]), ("time", [83, 217])]
    for by, expected in cases:
        with pytest.raises(Seen):
            predict(tmp_path / directory, [tmp_path / "a.npz"], bin_by=by)
        assert seen[-1][0, :, 7, 7, 1].tolist() == expected
    Network.num_frames = 1
    with pytest.raises(InputError, match="more than the 255 that fit"):
        predict(tmp_path / directory, [tmp_path / "a.npz"], saturate=False)
