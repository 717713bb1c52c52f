"""What scripts of experiments do with a configuration, without their trainings."""

import importlib
import json
import sys
from pathlib import Path
from unittest import mock

import knobs
import pytest

from snnkd_jax.errors import InputError
from snnkd_jax.runs.config import default_config

RESULTS = Path(__file__).parents[2] / "experiments" / "results"


def test_the_record_of_knobs_has_the_options_by_name(monkeypatch):
    """Those of the committed record, but for options that were added later; no seed, no path."""
    monkeypatch.setattr(knobs, "run", lambda _: None)
    monkeypatch.setattr(knobs, "validated", lambda *_: {"accuracy": 0.5, "firing_rate": 0.1})
    written = mock.Mock()
    monkeypatch.setattr(knobs, "write_record", written)
    knobs.main(record="x")
    config = written.call_args.args[2]["config"]
    committed = json.loads((RESULTS / "knobs" / "digits.json").read_text())["config"]
    assert committed.items() <= config.items()
    assert config.keys().isdisjoint(knobs.SEED)


@pytest.mark.parametrize("option", [{"optimizer": "adamw"}, {"preset": "temporal"}, {"tdbn": True}])
def test_spikingjelly_run_refuses_what_it_does_not_have(monkeypatch, tmp_path, option):
    for name in ("torch", "torch.nn", "spikingjelly", "spikingjelly.activation_based"):
        monkeypatch.setitem(sys.modules, name, mock.MagicMock())
    for name in ("peers.spikingjelly_net", "peers.torch_step"):
        monkeypatch.setitem(sys.modules, name, mock.MagicMock())
    monkeypatch.delitem(sys.modules, "spikingjelly_run", raising=False)
    config = default_config("digits").replace(preset="none", run_dir=str(tmp_path / "run")).replace(**option)
    ((name, value),) = option.items()
    try:
        with pytest.raises(InputError, match=f"{name}={value!r}: this script has only"):
            importlib.import_module("spikingjelly_run").main(config)
    finally:
        sys.modules.pop("spikingjelly_run", None)
    assert not (tmp_path / "run").exists()
