"""Networks as JSON values, and networks from them."""

from typing import Any

import jax
import numpy as np

from snnkd_jax.digest import jaxpr_digest, title
from snnkd_jax.dynamics.neurons import NEURONS, describe_neuron, neuron_from
from snnkd_jax.errors import InputError
from snnkd_jax.models import Network, build


def describe_network(network: Network, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """What `built` needs; of a module or neurons of one's own, a title, and a digest of what they compute."""
    if (of := network.arguments) is not None:
        spiking = None
        if of.neuron is not None:
            neuron = describe_neuron(of.neuron) or {"neuron": title(of.neuron)}
            spiking = {"num_steps": network.num_steps, **neuron, "tdbn": of.tdbn, "pool": of.pool}
        pool = of.pool if spiking is None else None
        described = {"model": of.name, "width": of.width, "levels": of.levels, "pool": pool, "dtype": of.dtype}
        described |= {"spiking": spiking}
        if of.neuron is None or describe_neuron(of.neuron) is not None:
            return described
    else:
        described = {"title": network.title, "num_steps": network.num_steps}
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), image_shape))
    images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    return described | {"jax": jax.__version__, "digest": jaxpr_digest(network.apply, variables, images)}


def can_be_built(description: dict[str, Any]) -> bool:
    """Whether the network is one of this library's, its neurons included."""
    spiking = description.get("spiking")
    return "digest" not in description and (not isinstance(spiking, dict) or spiking.get("neuron") in list(NEURONS))


def built(description: dict[str, Any]) -> Network:
    """The network of a description that can be built."""
    spiking = description["spiking"]
    options = {"width": description["width"], "dtype": description.get("dtype", "float32")}
    if spiking is None:
        options |= {"levels": description.get("levels"), "pool": description.get("pool", "avg")}
    else:
        options |= {name: spiking[name] for name in ("num_steps", "tdbn", "pool")}
        options["neuron"] = neuron_from(spiking)
    return build(description["model"], description["num_classes"], **options)


def check_network_is(network: Network, description: dict[str, Any], where: Any) -> None:
    """Raises `InputError`, which names `where`, unless the network is the one that is described."""
    if not isinstance(network, Network):
        raise InputError(f"network is a {type(network).__name__}; give Network(module, num_steps) or build(...)")
    try:
        found = describe_network(network, tuple(description["image_shape"]))
    except InputError:
        raise
    except Exception as error:  # Flax has its own, for a module that does not fit the images
        raise InputError(f"network is not the one that was trained in {where} ({error})") from error
    names = found.keys() - ({"digest", "jax"} if description.get("jax") != found.get("jax") else set())
    if differing := [name for name in sorted(names) if description.get(name) != found[name]]:
        changes = ", ".join(f"{name} was {description.get(name)!r} and is {found[name]!r}" for name in differing)
        raise InputError(f"network is not the one that was trained in {where}: {changes}")
