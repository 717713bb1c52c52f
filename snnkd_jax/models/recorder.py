"""Records the calls of a network's modules, seen from outside: what each read, and what it returned."""

import dataclasses
from collections import Counter
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
    """One call of a module: what it read first, and what it returned."""

    module: nn.Module
    inputs: Any
    output: Any

    @property
    def name(self) -> str:
        """The place of the module in the tree of variables, such as "block1_1/act1"."""
        return "/".join(self.module.path)


def calls(network: Any, variables: Any, image_shape: tuple[int, int, int]) -> list[Call]:
    """Each call of a module in evaluation, in the order of their ends, with the arrays of a trace.

    Args:
        network: anything with `apply(variables, images)`.
        variables: of the network, or their shapes.
        image_shape: `[H, W, C]` of its images.
    """
    with _seen(lambda _: True) as found:
        jax.eval_shape(lambda v: network.apply(v, jnp.zeros((1, *image_shape))), variables)
    return found


def recorded(
    apply: Callable[..., tuple[Any, Any]], where: Callable[[nn.Module], bool], mutable: tuple[str, ...] = ()
) -> tuple[Any, list[Call], Any]:
    """The outputs of `apply`, the calls of the modules inside for which `where` holds, and the updates of collections.

    `apply` is `module.apply` with all of its arguments but `mutable`. Calls are in the order of their ends; their
    arrays may be used as the outputs, also those from within lifted transformations such as `nn.remat`.
    """
    with _seen(where) as found:
        outputs, updates = apply(mutable=[_COLLECTION, *mutable])
    sown: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(updates.pop(_COLLECTION, {}))
    number: Counter[tuple[str, ...]] = Counter()
    kept = []
    for call in found:
        path = (*call.module.path, "call")
        number[path] += 1
        if number[path] <= len(sown.get(path, ())):  # a lifted transformation may trace a call more than once
            inputs, output = sown[path][number[path] - 1]
            kept.append(Call(call.module, inputs, output))
    return outputs, kept, updates


def neurons(network: Any, variables: Any, image_shape: tuple[int, int, int]) -> dict[str, Neuron]:
    """The layers of neurons by name, in the order in which an image passes them; arguments as `calls`."""
    found = calls(network, variables, image_shape)
    return {call.name: call.module.neuron for call in found if isinstance(call.module, Spike)}


@contextmanager
def _seen(where: Callable[[nn.Module], bool]) -> Iterator[list[Call]]:
    """The calls while it lasts; their arrays go to a collection as well, if it is mutable."""
    found: list[Call] = []

    def interceptor(call: Any, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        output = call(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and where(module):
            found.append(Call(module, next(iter((*args, *kwargs.values())), None), output))
            module.sow(_COLLECTION, "call", (found[-1].inputs, output))
        return output

    with nn.intercept_methods(interceptor):
        yield found
