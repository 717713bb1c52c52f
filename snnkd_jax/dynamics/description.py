"""This library's neurons as JSON values, and neurons from them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from snnkd_jax.dynamics.neurons import NEURONS, Neuron, neuron_of
from snnkd_jax.dynamics.surrogate import SURROGATES
from snnkd_jax.errors import check_choice


def describe_neuron(neuron: Neuron) -> dict[str, Any] | None:
    """Its kind and its constants; None for a neuron that `NEURONS` does not have."""
    for kind, made in NEURONS.items():
        if type(neuron) is made:
            constants = {field.name: getattr(neuron, field.name) for field in dataclasses.fields(made)}
            surrogate = constants.pop("surrogate")
            return {"neuron": kind, **constants, "surrogate": surrogate.name, "surrogate_alpha": surrogate.alpha}
    return None


def neuron_from(values: Mapping[str, Any]) -> Neuron:
    """The neuron of such values; others beside them do not count, and a `surrogate_alpha` None is the default.

    Raises `InputError` for an unknown kind or surrogate, or constants that the equations do not allow.
    """
    check_choice("surrogate", values["surrogate"], SURROGATES)
    make, alpha = SURROGATES[values["surrogate"]], values["surrogate_alpha"]
    constants = {name: value for name, value in values.items() if name not in ("neuron", "surrogate")}
    return neuron_of(values["neuron"], **constants, surrogate=make() if alpha is None else make(alpha))
