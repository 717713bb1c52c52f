"""The arguments of a run: each is explained, and each wrong one ends it in one line, before anything is written."""

import ast
import inspect

import gradient_agreement
import pytest
from tiny_runs import TINY, refused, start

from snnkd_jax.cli.arguments import parse
from snnkd_jax.cli.plan import plan
from snnkd_jax.cli.train import main
from snnkd_jax.runs.config import Config, default_config

pytestmark = pytest.mark.usefixtures("silent_layers")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--teacher", "resnet81"], ["teacher", "resnet81", "resnet18"]),
        (["--student", "lenet"], ["student", "lenet", "convnet"]),
        (["--dataset", "cifr10"], ["dataset", "cifr10", "did you mean cifar10"]),
        (["--preset", "kdsn"], ["preset", "kdsn", "did you mean kdsnn"]),
        (["--tau", "0.5"], ["tau=0.5", ">= 1"]),
        (["--tau", "nan"], ["tau=nan"]),
        (["--teacher-levels", "0"], ["--teacher-levels", "levels=0", "at least 1"]),
        (["--teacher", "resnet18", "--teacher-pool", "max"], ["--teacher-pool", "pool='max'", "resnet18"]),
        (["--teacher-width", "9"], ["--teacher-width", "width=9.0"]),
        (["--teacher-only", "--preset", "none"], ["teacher_only", "trains no teacher"]),
        (["--steps-weight", "-1"], ["steps_weight=-1.0"]),
        (["--preset", "enof"], ["classifier reads a hidden layer"]),
        (["--teacher-levels", "4", "--preset", "none"], ["teacher_levels=4", "uses no teacher"]),
        (["--num-steps", "0"], ["num_steps=0"]),
        (["--epochs", "0"], ["epochs=0"]),
        (["--batch-size", "12"], ["batch_size=12", "devices, 8"]),
        (["--batch-size", "0"], ["batch_size=0"]),
        (["--base-batch-size", "0"], ["base_batch_size=0"]),
        (["--fsdp", "3"], ["fsdp=3", "devices, 8"]),
        (["--batch-size", "8000"], ["batch_size=8000", "training images"]),
        (["--width", "-1"], ["width=-1.0"]),
        (["--learning-rate", "0"], ["learning_rate=0.0"]),
        (["--backprop", "tbptt"], ["backprop", "tbptt", "did you mean bptt"]),
        (["--bptt-epochs", "1"], ["bptt_epochs=1", "backprop='rate'"]),
        (["--backprop", "rate", "--bptt-epochs", "99"], ["bptt_epochs=99", "epochs=60"]),
        (["--pool", "min"], ["pool", "min", "avg"]),
        (["--student", "resnet18", "--pool", "max"], ["pool='max'", "resnet18"]),
        (["--optimizer", "adma"], ["optimizer", "adma", "adamw"]),
        (["--surrogate", "relu"], ["surrogate", "relu", "atan"]),
        (["--surrogate-alpha", "0"], ["alpha=0.0"]),
        (["--neuron", "hh"], ["neuron", "hh", "plif"]),
        (["--v-threshold", "0"], ["v_threshold=0.0"]),
        (["--dtype", "float8"], ["dtype", "float8", "bfloat16"]),
        (["--temperature", "0"], ["temperature=0.0"]),
        (["--kd-weight", "-1"], ["kd_weight=-1.0"]),
        (["--label-smoothing", "1"], ["label_smoothing=1.0"]),
        (["--crop-padding", "-1"], ["crop_padding=-1"]),
        (["--validation-fraction", "1"], ["validation_fraction=1.0"]),
        (["--validation-fraction", "-0.1"], ["validation_fraction=-0.1"]),
        (["--validation-fraction", "nan"], ["validation_fraction=nan"]),
        (["--clip-norm", "0"], ["clip_norm=0.0"]),
        (["--student", "vgg11"], ["student 'vgg11'", "too small"]),
        (["--seed", "-1"], ["seed=-1"]),
        (["--num-steps", "four"], ["--num-steps", "four"]),
        (["--colour", "red"], ["--colour"]),
        (["--teacher-checkpoint", "nowhere"], ["teacher_checkpoint", "nowhere"]),
        (["--preset", "none", "--teacher-checkpoint", "nowhere"], ["teacher_checkpoint", "none"]),
        (["--initial-weights", "teachers"], ["initial_weights", "teachers", "did you mean teacher"]),
        (
            ["--initial-weights", "teacher", "--teacher-width", "0.2"],
            ["initial_weights='teacher'", "norm1", "width"],
        ),
        (
            ["--initial-weights", "teacher", "--teacher", "resnet20"],
            ["initial_weights='teacher'", "missing", "resnet20"],
        ),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_wrong_argument_ends_in_one_line_and_leaves_nothing(capsys, tmp_path, arguments, names):
    run_dir = tmp_path / "run"
    message = refused(capsys, [*TINY, *arguments, "--run-dir", str(run_dir)])
    for name in names:
        assert name in message
    assert not run_dir.exists()


def test_exit_status_of_the_process_and_no_traceback(tmp_path):
    process = start([*TINY, "--tau", "0.5", "--run-dir", str(tmp_path / "run")])
    output, _ = process.communicate()
    assert process.returncode == 2
    assert output.strip().splitlines() == [
        "error: tau=0.5 must be a finite number of steps >= 1 (the decay is 1 - 1/tau)"
    ]


def test_every_argument_is_explained(capsys):
    """tyro takes the help from the docstrings of the fields."""
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for name in Config().flat():
        assert f"--{name.replace('_', '-')}" in text
    for section in vars(Config()).values():
        body = ast.parse(inspect.getsource(type(section))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign):
                assert isinstance(after, ast.Expr), ast.unparse(field)


def test_defaults_are_the_papers():
    config = default_config("cifar10")
    assert (config.data.dataset, config.teacher.teacher, config.student.student, config.student.num_steps) == (
        "cifar10",
        "pyramidnet18",
        "resnet18",
        4,
    )
    assert not config.run.baseline
    assert default_config("digits").run.baseline


@pytest.mark.parametrize("command", [plan, gradient_agreement.main])
@pytest.mark.parametrize("dataset", ["cifar10", "digits", "imagenet2012"])
def test_what_takes_a_runs_arguments_has_its_defaults(command, dataset):
    arguments = ["--width", "0.5", "--dataset", dataset, *["--topology", "v5e:2x2"] * (command is plan)]
    found = parse(command, arguments).keywords["config"]
    assert found == default_config(dataset).replace(width=0.5)
