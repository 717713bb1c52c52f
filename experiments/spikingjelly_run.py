"""The recipe of `snnkd train --preset none` in SpikingJelly, to compare training times.

    python experiments/spikingjelly_run.py --dataset cifar10 --student vgg11 --width 0.25 ... --run-dir runs/sj-0

Takes the arguments of `snnkd train`, and uses its data, validation split, order of batches, augmentation, schedule,
weight decay and batch size; initial weights have the same variances. PyTorch runs with its threads, channels_last and
torch.compile, which needs a C++ compiler.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import tyro
from peers.spikingjelly_net import body
from peers.torch_step import to_channels_last
from spikingjelly.activation_based import functional  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

from snnkd_jax.cli.arguments import call
from snnkd_jax.data.batches import MemorySource, eval_batches
from snnkd_jax.data.normalisation import to_unit_range
from snnkd_jax.dynamics.neurons import LIF
from snnkd_jax.errors import InputError, check_choice
from snnkd_jax.files import write_json
from snnkd_jax.runs.config import Config
from snnkd_jax.runs.run_dir import content_digests, open_run_dir

# The values of options that are implemented here.
ONLY = {
    "preset": "none",
    "neuron": "lif",
    "surrogate": "atan",
    "optimizer": "sgd",
    "backprop": "bptt",
    "pool": "avg",
    "tdbn": False,
    "dtype": "float32",
    "label_smoothing": 0.0,
    "clip_norm": None,
    "accumulate": 1,
    "initial_weights": "random",
    "student_noise": (),
}


def to_torch(images: Any) -> Any:
    """`[B, H, W, C]` to `[B, C, H, W]` in channels_last, without reordering the memory."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)


def initialise(network: Any) -> None:
    """Convolutions He-normal by fan-out, the read-out with variance 1 / fan-in and bias 0, as in `snnkd_jax.models`."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=module.in_features**-0.5)
            torch.nn.init.zeros_(module.bias)


def main(config: tyro.conf.OmitArgPrefixes[Config]) -> int:
    """Train in SpikingJelly and evaluate; writes metrics.jsonl and result.json to --run-dir."""
    config = config.checked()
    if config.run.run_dir is None:
        raise InputError("run_dir=None: give a directory")
    options = config.flat()
    for name, value in ONLY.items():
        if options[name] != value:
            raise InputError(f"{name}={options[name]!r}: this script has only {value!r}")
    check_choice("student", config.student.student, ("vgg11", "resnet18"))
    directory = Path(config.run.run_dir)
    if (directory / "metrics.jsonl").exists():
        raise InputError(f"run_dir {directory} holds a run already, and this script cannot resume it; name another")
    dataset = config.load_data()
    directory.mkdir(parents=True, exist_ok=True)
    open_run_dir(directory, {"config": config.flat()}, content_digests(dataset.identity))
    torch.manual_seed(config.run.seed)
    training, validation = dataset.split(config.run.seed)
    normalisation, augment = dataset.normalisation, config.data.augmentation()
    neurons = config.neuron.build()
    assert isinstance(neurons, LIF)  # by `ONLY`
    network = to_channels_last(body(config.student.student, config.student.width, neurons))
    initialise(network)
    compiled = torch.compile(network)
    weights = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim == 1]
    groups = [
        {"params": weights, "weight_decay": config.optimisation.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(
        groups, lr=config.optimisation.learning_rate, momentum=config.optimisation.momentum, nesterov=True, fused=True
    )

    @jax.jit
    def prepare(images, step):
        key = jax.random.fold_in(jax.random.key(config.run.seed), step)
        return normalisation(augment(key, to_unit_range(images)))

    normalise = jax.jit(normalisation)

    def logits_of(images):
        functional.reset_net(network)
        return compiled(images.unsqueeze(0).repeat(config.student.num_steps, 1, 1, 1, 1)).mean(0)

    def accuracy(examples) -> float:
        network.eval()
        correct = 0.0
        with torch.inference_mode():
            for batch in eval_batches(examples, config.optimisation.batch_size):
                hits = logits_of(to_torch(normalise(batch["images"]))).argmax(1).numpy() == batch["labels"]
                correct += float((hits * batch["mask"]).sum())
        network.train()
        return correct / len(examples["labels"])

    source = MemorySource(training, config.optimisation.batch_size, config.run.seed)
    steps_per_epoch = source.steps_per_epoch
    num_steps = config.optimisation.epochs * steps_per_epoch
    warmup = min(config.optimisation.warmup_epochs, config.optimisation.epochs - 1) * steps_per_epoch
    start = time.perf_counter()
    for step in range(num_steps):
        after = (step - warmup) / (num_steps - warmup)
        factor = step / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * after))
        for group in optimizer.param_groups:
            group["lr"] = config.optimisation.peak_learning_rate * factor
        batch = source(step)
        optimizer.zero_grad(set_to_none=True)
        labels = torch.from_numpy(batch["labels"]).long()
        loss = F.cross_entropy(logits_of(to_torch(prepare(batch["images"], step))), labels)
        loss.backward()
        optimizer.step()
        if (step + 1) % steps_per_epoch == 0:
            now = time.perf_counter()  # as snnkd_jax's log: an epoch's evaluation counts for the next one
            entry: dict[str, Any] = {
                "phase": "student",
                "epoch": (step + 1) // steps_per_epoch,
                "step": step + 1,
                "loss": loss.item(),
                "validation": {"accuracy": accuracy(validation)},
            }
            entry["seconds"], start = now - start, now
            print(entry, flush=True)
            with (directory / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(entry) + "\n")
    test = accuracy({"images": dataset.test_images, "labels": dataset.test_labels})
    write_json(directory / "result.json", {"test_accuracy": {"student": test}})
    print(f"test accuracy {100 * test:.2f} %")
    return 0


if __name__ == "__main__":
    sys.exit(call(main))
