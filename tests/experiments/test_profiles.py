"""Profiles by class of op: on programs and events written by hand, and on the benchmark's own steps."""

import collections
import json

import benchmark as script
import pytest
from peers.op_class import CLASSES, Program
from peers.profile import profile
from peers.profiles import table
from peers.settings import Settings
from peers.snnkd_net import make_step
from peers.timeline import Event, wall_time
from peers.workload import Step, Workload
from records.speed import profile_tables, speed_section

from snnkd_jax.errors import InputError

PROGRAM = """\
HloModule jit_train, is_scheduled=true

%moves_kernel (param_0.1: f32[3,3,3,4]) -> f32[3,3,4,3] {
  %param_0.1 = f32[3,3,3,4]{3,2,1,0} parameter(0)
  %reverse.1 = f32[3,3,3,4]{3,2,1,0} reverse(%param_0.1), dimensions={0,1}
  ROOT %transpose.1 = f32[3,3,4,3]{3,2,1,0} transpose(%reverse.1), dimensions={0,1,3,2}
}

%moves_current (param_0.2: f32[2,8,8,4]) -> f32[4,8,8,2] {
  %param_0.2 = f32[2,8,8,4]{3,2,1,0} parameter(0)
  ROOT %transpose.2 = f32[4,8,8,2]{3,2,1,0} transpose(%param_0.2), dimensions={3,1,2,0}, metadata={op_name="jit(train)/jvp(VGG)/norm1_1/transpose"}
}

%product (param_0.3: f32[2,36], param_1.3: f32[3,3,4,5]) -> f32[2,99,5] {
  %param_0.3 = f32[2,36]{1,0} parameter(0)
  %param_1.3 = f32[3,3,4,5]{3,2,1,0} parameter(1)
  %bitcast.3 = f32[36,5]{1,0} bitcast(%param_1.3)
  %dot.3 = f32[2,5]{1,0} dot(%param_0.3, %bitcast.3), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(train)/jvp(VGG)/conv5_1/conv/dot_general"}
  %broadcast.3 = f32[2,99,5]{2,1,0} broadcast(%dot.3), dimensions={0,2}
  ROOT %add.3 = f32[2,99,5]{2,1,0} add(%broadcast.3, %broadcast.3), metadata={op_name="jit(train)/jvp(VGG)/norm5_1/add"}
}

%norm_and_neuron (param_0.4: f32[4], param_1.4: f32[2,8,8,4]) -> f32[2,8,8,4] {
  %param_0.4 = f32[4]{0} parameter(0)
  %param_1.4 = f32[2,8,8,4]{3,2,1,0} parameter(1)
  %rsqrt.4 = f32[4]{0} rsqrt(%param_0.4), metadata={op_name="jit(train)/jvp(VGG)/norm1_1/rsqrt"}
  %multiply.4 = f32[4]{0} multiply(%rsqrt.4, %rsqrt.4), metadata={op_name="jit(train)/jvp(VGG)/norm1_1/mul"}
  %multiply.5 = f32[4]{0} multiply(%multiply.4, %rsqrt.4), metadata={op_name="jit(train)/jvp(VGG)/norm1_1/mul"}
  %broadcast.4 = f32[2,8,8,4]{3,2,1,0} broadcast(%multiply.5), dimensions={3}, metadata={op_name="jit(train)/jvp(VGG)/norm1_1/mul"}
  %subtract.4 = f32[2,8,8,4]{3,2,1,0} subtract(%param_1.4, %broadcast.4), metadata={op_name="jit(train)/jvp(VGG)/act1_1/jit(_integrate)/sub"}
  ROOT %compare.4 = f32[2,8,8,4]{3,2,1,0} maximum(%subtract.4, %broadcast.4), metadata={op_name="jit(train)/jvp(VGG)/act1_1/jit(_integrate)/ge"}
}

%sum (a.5: f32[], b.5: f32[]) -> f32[] {
  %a.5 = f32[] parameter(0)
  %b.5 = f32[] parameter(1)
  ROOT %add.5 = f32[] add(%a.5, %b.5), metadata={op_name="reduce_sum"}
}

%moments (param_0.6: f32[2,8,8,4], param_1.6: f32[4]) -> f32[4] {
  %param_0.6 = f32[2,8,8,4]{3,2,1,0} parameter(0)
  %param_1.6 = f32[4]{0} parameter(1)
  %constant.6 = f32[] constant(0)
  %reduce.6 = f32[4]{0} reduce(%param_0.6, %constant.6), dimensions={0,1,2}, to_apply=%sum, metadata={op_name="jit(train)/jvp(VGG)/norm1_1/reduce_sum"}
  %multiply.6 = f32[4]{0} multiply(%reduce.6, %param_1.6), metadata={op_name="jit(train)/optimizer/mul"}
  %multiply.7 = f32[4]{0} multiply(%multiply.6, %param_1.6), metadata={op_name="jit(train)/optimizer/mul"}
  ROOT %add.6 = f32[4]{0} add(%multiply.7, %param_1.6), metadata={op_name="jit(train)/optimizer/add"}
}

%branch (arg.7: (f32[2,8,8,4])) -> (f32[2,8,8,4]) {
  %arg.7 = (f32[2,8,8,4]{3,2,1,0}) parameter(0)
  %get-tuple-element.7 = f32[2,8,8,4]{3,2,1,0} get-tuple-element(%arg.7), index=0
  ROOT %tuple.7 = (f32[2,8,8,4]{3,2,1,0}) tuple(%get-tuple-element.7)
}

ENTRY %main.1 (state.1: f32[3,3,3,4], state.2: f32[3,3,4,5], images.1: f32[2,8,8,3]) -> (f32[2,8,8,4], /*index=1*/f32[4]) {
  %state.1 = f32[3,3,3,4]{3,2,1,0} parameter(0), metadata={op_name="state.params[\\'network\\'][\\'conv1_1\\'][\\'conv\\'][\\'kernel\\']"}
  %state.2 = f32[3,3,4,5]{3,2,1,0} parameter(1), metadata={op_name="state.params[\\'network\\'][\\'conv5_1\\'][\\'conv\\'][\\'kernel\\']"}
  %images.1 = f32[2,8,8,3]{3,2,1,0} parameter(2), metadata={op_name="batch[\\'images\\']"}
  %subtract.8 = f32[2,8,8,3]{3,2,1,0} subtract(%images.1, %images.1), metadata={op_name="jit(train)/sub"}
  %convert.8 = f32[2,8,8,3]{3,2,1,0} convert(%subtract.8), metadata={op_name="jit(train)/convert_element_type"}
  %copy.8 = f32[3,3,3,4]{3,2,1,0} copy(%state.1)
  %convolution.8 = f32[2,8,8,4]{3,2,1,0} convolution(%subtract.8, %copy.8), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, metadata={op_name="jit(train)/jvp(VGG)/conv1_1/conv/conv_general_dilated"}
  %moments.8 = f32[4]{0} fusion(%convolution.8, %images.1), kind=kLoop, calls=%moments
  %neuron.8 = f32[2,8,8,4]{3,2,1,0} fusion(%moments.8, %convolution.8), kind=kLoop, calls=%norm_and_neuron, metadata={op_name="jit(train)/jvp(VGG)/norm1_1/mul"}
  %cond.8 = (f32[2,8,8,4]{3,2,1,0}) conditional(%moments.8, %neuron.8), branch_computations={%branch, %branch}, metadata={op_name="jit(train)/jvp(VGG)/act1_1/jit(_integrate)/cond"}
  %product.8 = f32[2,99,5]{2,1,0} fusion(%neuron.8, %state.2), kind=kCustom, calls=%product
  %dot.8 = f32[2,10]{1,0} dot(%product.8, %product.8), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(train)/jvp(VGG)/head/dot_general"}
  %pool.8 = f32[2,4,4,4]{3,2,1,0} reduce-window(%neuron.8, %moments.8), to_apply=%sum, metadata={op_name="jit(train)/transpose(jvp(VGG))/pool1/reduce_sum"}
  %log.8 = f32[2]{0} log(%dot.8), metadata={op_name="jit(train)/jvp(loss)/jit(log_softmax)/log"}
  %kernel.9 = f32[3,3,4,3]{3,2,1,0} fusion(%copy.8), kind=kLoop, calls=%moves_kernel
  %convolution.9 = f32[2,8,8,3]{3,2,1,0} convolution(%neuron.8, %kernel.9), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, metadata={op_name="jit(train)/transpose(jvp(VGG))/conv1_1/conv/conv_general_dilated"}
  %current.9 = f32[4,8,8,2]{3,2,1,0} fusion(%neuron.8), kind=kLoop, calls=%moves_current
  %convolution.10 = f32[4,3,3,4]{3,2,1,0} convolution(%current.9, %current.9), window={size=8x8 pad=1_1x1_1}, dim_labels=b01f_01io->b01f
  %pad.10 = f32[2,10,10,4]{3,2,1,0} pad(%neuron.8, %moments.8), padding=0_0x1_1x1_1x0_0, metadata={op_name="jit(train)/transpose(jvp(VGG))/conv5_1/conv/pad"}
  %add.10 = f32[2,10,10,4]{3,2,1,0} add(%pad.10, %pad.10), metadata={op_name="jit(train)/transpose(jvp(VGG))/conv5_1/conv/add_any"}
  %update.10 = f32[3,3,3,4]{3,2,1,0} add(%state.1, %copy.8), metadata={op_name="jit(train)/optimizer/add"}
  %convolution.11 = f32[2,8,8,4]{3,2,1,0} convolution(%images.1, %copy.8), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, metadata={op_name="jit(train)/teacher/VGG/conv1_1/conv/conv_general_dilated"}
  %copy.11 = f32[2,8,8,4]{3,2,1,0} copy(%convolution.11), metadata={op_name="jit(train)/teacher/VGG/act1_1/broadcast_in_dim"}
  ROOT %tuple.11 = (f32[2,8,8,4]{3,2,1,0}, /*index=1*/f32[4]{0}) tuple(%neuron.8, %moments.8)
}
"""  # noqa: E501 (as the compiler writes it)


def test_classes_of_a_program():
    """A fusion is what most of its elements are computed for, whatever its own name and its number of instructions."""
    classes = Program(PROGRAM).classes()
    assert {name: classes[name] for name in classes if name.rpartition(".")[2] in ("8", "9", "10", "11")} == {
        "subtract.8": "other",
        "convert.8": "other",
        "copy.8": "copies",
        "convolution.8": "convolution",
        "moments.8": "norm",
        "neuron.8": "neuron",
        "cond.8": "neuron",
        "product.8": "convolution",
        "dot.8": "matrix product",
        "pool.8": "pooling",
        "log.8": "loss",
        "kernel.9": "copies",
        "convolution.9": "convolution, by input",
        "current.9": "copies",
        "convolution.10": "convolution, by weights",
        "pad.10": "copies",
        "add.10": "copies",
        "update.10": "optimiser",
        "convolution.11": "teacher",
        "copy.11": "teacher",
        "tuple.11": "copies",
    }
    assert set(classes.values()) == set(CLASSES)


def test_time_belongs_to_the_innermost_op_and_is_counted_once():
    """By hand: a loop from 0 to 10 with ops from 1 to 4 and, at once with its parent's end, from 6 to 10."""
    thread = [Event(0, 10, "while"), Event(1, 4, "a"), Event(6, 10, "b")]
    assert wall_time([thread]) == ({"while": 3, "a": 3, "b": 4}, 10)
    begins_together = [Event(0, 10, "while"), Event(0, 4, "a")]
    assert wall_time([list(reversed(begins_together))]) == ({"while": 6, "a": 4}, 10)


def test_threads_that_work_at_once_share_the_time():
    """By hand: a alone 0-2, a and b 2-6, b alone 6-8, nothing 8-9, c 9-10; a third thread has no ops."""
    spent, worked = wall_time([[Event(0, 6, "a")], [Event(2, 8, "b"), Event(9, 10, "c")], []])
    assert spent == {"a": 2 + 4 / 2, "b": 4 / 2 + 2, "c": 1}
    assert worked == 6 + 6 + 1


def test_a_task_is_its_ops_that_handed_it_over():
    """By hand: a hands task 7 over at 1; it runs on the other thread from 3 to 9 with op b within, 4-6, after a's end.

    Task 8 is handed over by task 7 at 8, and so is a's too; task 9, handed over by no op, is nobody's.
    """
    first = [Event(0, 3, "a"), Event(1, 1, hands_over=7), Event(20, 20, hands_over=9)]
    second = [Event(3, 9, task=7), Event(4, 6, "b"), Event(8, 8, hands_over=8), Event(20, 25, task=9)]
    third = [Event(10, 12, task=8)]
    assert wall_time([first, second, third]) == ({"a": 3 + 1 + 3 + 2, "b": 2}, 11)


CONVOLUTIONS = {"vgg11": 8, "resnet18": 20, "airbench94": 7}


@pytest.mark.slow
@pytest.mark.optimised
@pytest.mark.parametrize(("model", "task"), [("vgg11", "train"), ("resnet18", "rate"), ("airbench94", "kd")])
def test_products_of_a_compiled_step(model, task):
    """As many as the architecture has convolutions, and the images need no gradient; three of the head."""
    step = make_step(Workload(task, model, 2, 0.125, 4))
    step.run(1)
    program = Program(step.program() or "")
    classes = program.classes()
    found = collections.Counter(
        classes[name] for name, i in program.instructions.items() if i.opcode in ("convolution", "dot")
    )
    n = CONVOLUTIONS[model]
    expected = {"convolution": n, "convolution, by input": n - 1, "convolution, by weights": n, "matrix product": 3}
    assert found == expected | ({"teacher": n + 1} if task == "kd" else {})


@pytest.mark.slow
def test_a_profile_accounts_for_the_step(monkeypatch, tmp_path, capsys):
    """In workers: the classes' times and what is left add up to the clock's, and are those of the task."""
    monkeypatch.setattr(script, "RESULTS", tmp_path)
    options = {"quick": True, "threads": 1, "record": "x"}
    assert script.main(Settings(profile_ops=True, tasks=("train", "kd-rate", "inference"), **options)) == 0
    record = json.loads((tmp_path / "x.json").read_text())
    assert record["kind"] == "profile"
    assert record["command"] == (
        "python experiments/benchmark.py --tasks train kd-rate inference --threads 1 --profile-ops --quick"
    )
    entries = {e["task"]: e for e in record["entries"]}
    assert list(entries) == ["train", "kd-rate", "inference"]
    for entry in entries.values():
        assert sum(entry["milliseconds"].values()) + entry["idle"] == pytest.approx(entry["step"])
        assert 0 < entry["idle"] < 0.95 * entry["step"], "ops take more than the clock's time, or hardly any of it"
        assert 0.99 < entry["threads"] < 4
    of = {task: {name for name, ms in e["milliseconds"].items() if ms > 0} for task, e in entries.items()}
    assert of["train"] >= {"convolution", "convolution, by input", "convolution, by weights", "neuron", "norm"}
    assert of["kd-rate"] - of["train"] == {"teacher"}
    assert of["train"] - of["kd-rate"] == set()
    assert of["inference"] >= {"convolution", "neuron"}
    backward = {"convolution, by input", "convolution, by weights", "optimiser", "loss", "teacher"}
    assert of["inference"] & backward == set()
    printed = capsys.readouterr().out
    assert "convolution, by weights" in printed
    assert "not installed" not in printed


def profile_entry(task: str, num_steps: int, model: str = "vgg11", **milliseconds: float) -> dict:
    times = {"convolution": 50.0, "norm": 30.0, "teacher": 0.0} | milliseconds
    idle = 120.0 - sum(times.values())
    where = {"library": "snnkd_jax", "task": task, "model": model, "num_steps": num_steps, "batch_size": 32}
    return {**where, "milliseconds": times, "idle": idle, "step": 120.0, "untraced": 111.1, "threads": 1.9, "steps": 9}


def test_record_has_a_table_for_each_model():
    """A class that no row of a model has is left out there."""
    record = {
        "kind": "profile",
        "name": "profile",
        "command": "python experiments/benchmark.py --profile-ops",
        "settings": {"threads": 2, "width": 1.0},
        "entries": [
            profile_entry("train", 4),
            profile_entry("kd", 16, teacher=12.0),
            profile_entry("inference", 4, "resnet18", norm=0.0),
        ],
        "failed": [{"library": "snnkd_jax", "task": "rate", "model": "vgg11", "num_steps": 16, "error": "killed"}],
        "versions": {"jax": "0.10.2", "numpy": "2"},
        "hardware": "1 cpu device(s) (2 x Somebody's)",
        "notes": "",
    }
    text = profile_tables([record])
    lines = text.splitlines()
    assert lines[0] == "| vgg11, batch 32 | T | convolution | norm | teacher | idle | step | step, untraced |"
    assert lines[2:4] == [
        "| train | 4 | 50 (42 %) | 30 (25 %) | – | 40 (33 %) | 120 | 111 |",
        "| kd | 16 | 50 (42 %) | 30 (25 %) | 12 (10 %) | 28 (23 %) | 120 | 111 |",
    ]
    assert "| resnet18, batch 32 | T | convolution | idle | step | step, untraced |" in lines
    assert "| inference | 4 | 50 (42 %) | 70 (58 %) | 120 | 111 |" in lines
    assert "2 threads, width 1, float32, on 1 cpu device(s) (2 x Somebody's). jax 0.10.2." in text
    assert "snnkd_jax failed at rate of vgg11, T = 16." in text
    assert text in speed_section([record])


def test_text_has_a_column_for_each_entry():
    times = dict.fromkeys(CLASSES, 0.0) | {"convolution": 3.0}
    entry = profile_entry("train", 4) | {"milliseconds": times, "idle": 1.0, "step": 4.0, "untraced": 2.0}
    rows = [line.split() for line in table([entry, entry | {"task": "kd"}]).splitlines()]
    assert rows[1:4] == [
        ["train", "kd"],
        ["T", "=", "4", "T", "=", "4"],
        ["convolution", "3.00", "(75", "%)", "3.00", "(75", "%)"],
    ]
    assert rows[-1] == ["untraced", "2.00", "(50", "%)", "2.00", "(50", "%)"]


def test_a_trace_without_ops_is_refused():
    """As a GPU's is, whose ops are not on the host's threads."""
    step = Step(parameters=0, advance=lambda: 0.0, stem_steps=1, program=lambda: PROGRAM)
    with pytest.raises(InputError, match="profile_ops on cpu: the trace has no ops"):
        profile(step, 1)


def test_another_library_is_refused():
    with pytest.raises(InputError, match=r"libraries=\('naive-jax',\): profile_ops is for snnkd_jax alone"):
        Settings(profile_ops=True, libraries=("naive-jax",), threads=1).resolved()
    assert Settings(profile_ops=True, threads=1).resolved().libraries == ("snnkd_jax",)
