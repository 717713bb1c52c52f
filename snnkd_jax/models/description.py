"""Networks as JSON values, and networks built from them."""

import dataclasses
from typing import Any

import jax
import numpy as np

from snnkd_jax.digest import jaxpr_digest, title
from snnkd_jax.dynamics.neurons import NEURONS, describe_neuron, neuron_from
from snnkd_jax.errors import InputError
from snnkd_jax.models import Frames, Network, build


def describe_network(network: Network, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """The arguments of `network_from`; of your own module or neurons, a title, and a digest of the computation."""
    if (found := network.arguments) is not None:
        spiking, pool = None, found.pool
        if found.neuron is not None:
            neuron = describe_neuron(found.neuron) or {"neuron": title(found.neuron)}
            spiking, pool = {"num_steps": network.num_steps, **neuron, "tdbn": found.tdbn, "pool": pool}, None
            spiking |= _coding(network)
        described = {"model": found.name, "width": found.width, "levels": found.levels, "pool": pool}
        described |= {"dtype": found.dtype, "spiking": spiking, **_frames(network)}
        if found.neuron is None or describe_neuron(found.neuron) is not None:
            return described
    else:
        described = {"title": network.title, "num_steps": network.num_steps, **_frames(network), **_coding(network)}
    variables = jax.eval_shape(lambda: network.init(jax.random.key(0), image_shape))
    images = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    return described | {"jax": jax.__version__, "digest": jaxpr_digest(network.apply, variables, images)}


def _frames(network: Network) -> dict[str, Any]:
    """How the network reads sequences, if not frame by frame."""
    return {} if network.frames is None else {"frames": dataclasses.asdict(network.frames)}


def _coding(network: Network) -> dict[str, Any]:
    """How the network reads static images, if as spikes."""
    return {} if network.coding == "direct" else {"input_coding": network.coding}


def can_be_built(description: dict[str, Any]) -> bool:
    """Whether the architecture and its neurons are of this library."""
    spiking = description.get("spiking")
    return "digest" not in description and (not isinstance(spiking, dict) or spiking.get("neuron") in list(NEURONS))


def network_from(description: dict[str, Any]) -> Network:
    """Builds the network of a description for which `can_be_built` holds."""
    spiking = description["spiking"]
    options = {"width": description["width"], "dtype": description.get("dtype", "float32")}
    options["frames"] = Frames(**description["frames"]) if "frames" in description else None
    if spiking is None:
        options |= {"levels": description.get("levels"), "pool": description.get("pool", "avg")}
    else:
        options |= {name: spiking[name] for name in ("num_steps", "tdbn", "pool")}
        options["neuron"] = neuron_from(spiking)
        options["input_coding"] = spiking.get("input_coding", "direct")
    return build(description["model"], description["num_classes"], **options)


def check_same_network(network: Network, description: dict[str, Any], where: Any) -> None:
    """Raises `InputError`, which names `where`, if the network has another description."""
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
