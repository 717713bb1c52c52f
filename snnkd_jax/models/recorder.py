"""Captures the inputs and outputs of a network's modules, from outside of them."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from snnkd_jax.dynamics.integration import Neuron
from snnkd_jax.models.activation import Spike

_COLLECTION = "calls"


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a module: its first argument and its output."""

    module: nn.Module
    inputs: Any
    output: Any

    @property
    def name(self) -> str:
        """The path of the module, such as "block1_1/act1"."""
        return "/".join(self.module.path)


def trace_calls(network: Any, variables: Any, image_shape: tuple[int, int, int]) -> list[Call]:
    """The calls of all modules in evaluation, in the order in which they return, with the tracers of `jax.eval_shape`.

    `network` is anything with `apply(variables, images)`; images are `[H, W, C]`, and variables may be shapes.
    """
    with _capture(lambda _: True) as calls:
        jax.eval_shape(lambda v: network.apply(v, jnp.zeros((1, *image_shape))), variables)
    return calls


def capture_calls(apply: Callable[..., tuple[Any, Any]], where: Callable[[nn.Module], bool]) -> tuple[Any, list[Call]]:
    """The outputs of `apply`, and the calls of the modules inside for which `where` holds.

    `apply` is `module.apply` with all of its arguments but `mutable`. Calls are in the order in which they return;
    their arrays may be returned by a transformed function, also those from within lifted transformations such as
    `nn.remat`.
    """
    with _capture(where) as calls:
        outputs, updates = apply(mutable=[_COLLECTION])
    sown: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(updates.get(_COLLECTION, {}))
    arrays = {path[:-1]: list(values) for path, values in sown.items()}
    # A lifted transformation may trace a call more than once.
    return outputs, [Call(call.module, *arrays[path].pop(0)) for call in calls if arrays.get(path := call.module.path)]


def spiking_layers(network: Any, variables: Any, image_shape: tuple[int, int, int]) -> dict[str, Neuron]:
    """The neurons of the `Spike` layers by path, in the order in which an image passes them; see `trace_calls`."""
    calls = trace_calls(network, variables, image_shape)
    return {call.name: call.module.neuron for call in calls if isinstance(call.module, Spike)}


@contextmanager
def _capture(where: Callable[[nn.Module], bool]) -> Iterator[list[Call]]:
    """Captures calls in the context, and sows their arrays in a collection, if it is mutable."""
    calls: list[Call] = []

    def interceptor(call: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        output = call(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and where(module):
            calls.append(Call(module, next(iter((*args, *kwargs.values())), None), output))
            module.sow(_COLLECTION, "call", (calls[-1].inputs, output))
        return output

    with nn.intercept_methods(interceptor):
        yield calls
