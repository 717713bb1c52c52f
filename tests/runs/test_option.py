"""Options from arrays, environment variables, JSON and paths: taken where the meaning is clear, else named at once."""

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from snnkd_jax.errors import InputError
from snnkd_jax.files import write_sealed
from snnkd_jax.fitting import fit
from snnkd_jax.runs.config import Config, config_of, default_config
from snnkd_jax.runs.option import option
from snnkd_jax.runs.recipe import read_config

CLEAR: list[tuple[str, Any, Any]] = [
    ("num_steps", np.int64(2), 2),
    ("num_steps", jnp.int32(3), 3),
    ("epochs", 1.0, 1),
    ("epochs", "30", 30),
    ("epochs", " 1e3", 1000),
    ("batch_size", np.array(64), 64),
    ("seed", 2**32 - 1, 2**32 - 1),
    ("seed", "4294967295", 4294967295),
    ("learning_rate", "1e-3", 1e-3),
    ("learning_rate", np.float32(0.5), 0.5),
    ("tau", 2, 2.0),
    ("tau", jnp.bfloat16(2.5), 2.5),
    ("width", Decimal("0.25"), 0.25),
    ("v_reset", "None", None),
    ("v_reset", "-0.5", -0.5),
    ("fsdp", "None", None),
    ("run_dir", Path("runs/x"), "runs/x"),
    ("run_dir", "None", None),
    ("preset", np.str_("none"), "none"),
    ("baseline", np.bool_(False), False),
    ("flip", "true", True),
    ("flip", "False", False),
    ("decay_input", 0, False),
    ("decay_input", jnp.array(True), True),
    ("distributed", "None", None),
    ("student_noise", ["blur:2", "none"], ("blur:2", "none")),
    ("student_noise", "blur:2 none", ("blur:2", "none")),
]


@pytest.mark.parametrize(("name", "value", "expected"), CLEAR, ids=lambda value: repr(value))
def test_what_is_clear_is_taken_as_pythons_own_type(name, value, expected):
    found = default_config("digits").replace(**{name: value})
    assert found.flat()[name] == expected
    assert type(found.flat()[name]) is type(expected)
    assert found == default_config("digits").replace(**{name: expected})
    assert config_of(json.loads(json.dumps(found.flat())), "here") == found


UNCLEAR: list[tuple[str, Any, str]] = [
    ("epochs", True, "a whole number"),
    ("epochs", np.bool_(True), "a whole number"),
    ("epochs", 1.5, "a whole number"),
    ("epochs", "many", "a whole number"),
    ("epochs", math.inf, "a whole number"),
    ("epochs", None, "a whole number"),
    ("num_steps", np.array([2]), "a whole number"),
    ("fsdp", "none of it", "a whole number or None"),
    ("seed", b"3", "a whole number"),
    ("tau", math.nan, "a finite number"),
    ("tau", "inf", "a finite number"),
    ("v_reset", "", "a finite number or None"),
    ("width", 1j, "a finite number"),
    ("width", True, "a finite number"),
    ("learning_rate", None, "a finite number"),
    ("flip", "yes", "True or False"),
    ("flip", 1.0, "True or False"),
    ("baseline", 2, "True or False"),
    ("preset", None, "a string"),
    ("dataset", 10, "a string"),
    ("run_dir", b"runs", "a string or a path or None"),
    ("student_noise", 3, "a list of words"),
    ("student_noise", [3], "a list of words"),
    ("student_noise", None, "a list of words"),
]


@pytest.mark.parametrize(("name", "value", "expected"), UNCLEAR, ids=lambda value: repr(value))
def test_what_is_not_clear_is_named_at_once(name, value, expected):
    with pytest.raises(InputError) as refused:
        default_config("digits").replace(**{name: value})
    told = str(refused.value)
    assert told.startswith(f"{name}={value!r} must be {expected}")
    assert "\n" not in told


def test_a_traced_value_and_a_large_array_are_refused_in_a_line():
    for value in (np.zeros((40, 40)), jnp.zeros((40, 40))):
        with pytest.raises(InputError, match="width=") as refused:
            Config().replace(width=value)
        assert len(str(refused.value)) < 300
        assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match=r"width=.*must be a finite number"):
        jax.jit(lambda width: Config().replace(width=width))(0.5)


def test_every_option_has_a_type_that_is_known():
    for name, value in Config().flat().items():
        assert Config().replace(**{name: value}) == Config()
        with pytest.raises(InputError, match=f"{name}="):
            Config().replace(**{name: object()})


def test_a_section_that_is_none_is_named():
    with pytest.raises(InputError, match=r"data='cifar10' must be a DataConfig"):
        Config(data="cifar10")  # pyright: ignore[reportArgumentType] what it is about


def test_a_configuration_in_a_file_is_named_with_its_option(tmp_path):
    write_sealed(tmp_path / "config.json", {"config": default_config("digits").flat() | {"epochs": "ten"}})
    with pytest.raises(InputError, match=r"config\.json .*epochs='ten' must be a whole number"):
        read_config(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("optimizer", "SGD"), ("preset", "KDSNN"), ("surrogate", "Atan")])
def test_another_case_is_refused_with_the_name_that_is_meant(name, value):
    with pytest.raises(InputError, match=f"did you mean {value.lower()}"):
        default_config("digits").replace(**{name: value}).check()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"epochs": True}, "epochs=True"),
        ({"epochs": "ten"}, "epochs='ten'"),
        ({"batch_size": 12.5}, "batch_size=12.5"),
        ({"seed": 2**32}, "seed=4294967296 must be in"),  # 2^32 gives JAX's key of 0
        ({"fsdp": "two"}, "fsdp='two'"),
        ({"checkpoint_every": 0}, "checkpoint_every=0"),
        ({"keep_checkpoints": None}, "keep_checkpoints=None"),
        ({"bptt_epochs": 0.5}, "bptt_epochs=0.5"),
    ],
    ids=lambda value: str(value),
)
def test_arguments_of_fit_are_options_too(options, told):
    with pytest.raises(InputError) as refused:
        fit(None, None, **options)  # pyright: ignore[reportArgumentType] refused before they are looked at
    assert told in str(refused.value)


def taken(kind: Any, value: Any) -> Any:
    """None if the value is refused."""
    try:
        return option("x", kind, value)
    except InputError:
        return None


@pytest.mark.slow
def test_random_values_are_taken_exactly_or_refused():
    """Whatever a value's wrapping, it is kept unchanged or refused: no other number comes out."""
    rng = np.random.default_rng(0)
    wrappings = [np.int64, np.float64, np.array, str, repr, float, lambda x: Decimal(str(x))]
    kinds = {"int": int, "float": float, "optional": int | None}
    for _ in range(2000):
        number = rng.choice([rng.integers(-(2**40), 2**40), rng.normal(), np.round(rng.normal(0, 50))])
        number = int(number) if rng.random() < 0.5 else float(number)
        value = wrappings[rng.integers(len(wrappings))](number)
        kind = kinds[rng.choice(list(kinds))]
        exact = float(str(value))
        expected = None if kind is not float and exact != int(exact) else exact
        assert taken(kind, value) == expected, (number, value, kind)
