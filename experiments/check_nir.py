"""Compare the spikes of a student with those of its NIR file, read by plain NumPy and by other libraries.

    python experiments/check_nir.py RUN --peers spikingjelly snntorch --record NAME

NumPy computes in float64 from the definitions of NIR, and every other reader is compared with it. In float32 the order
of summation decides whether a potential within a rounding error of the threshold reaches it, so that one spike in
millions may differ, and others that follow from it; in float64 none should.
"""

import dataclasses
import importlib.util
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from numpy.typing import NDArray
from peers.nir_readers import Reader, library_reader, numpy_reader, snntorch_reader, spikingjelly_reader

from snnkd_jax.cli.arguments import call
from snnkd_jax.errors import InputError
from snnkd_jax.files import check_writable_file
from snnkd_jax.inference.trained import load
from snnkd_jax.interop.nir import read_nir, write_nir
from snnkd_jax.models import Network, Variables
from snnkd_jax.models.folding import fold_norms
from snnkd_jax.runs.command import command
from snnkd_jax.runs.recipe import read_config
from snnkd_jax.runs.record import write_record

RESULTS = Path(__file__).parent / "results" / "nir"
BATCH_SIZE = 100

PEERS: dict[str, Callable[[Path], Reader]] = {"spikingjelly": spikingjelly_reader, "snntorch": snntorch_reader}


def main(
    run: tyro.conf.Positional[Path],
    images: int = 1000,
    peers: tuple[Literal["spikingjelly", "snntorch"], ...] = (),
    record: str | None = None,
) -> None:
    """Compare the spikes of a student with those of its NIR file, in NumPy and in other libraries.

    Args:
        run: Directory of a finished run.
        images: Number of test images, from the first.
        peers: Other libraries to read the file with; docs/speed.md says how to install them.
        record: Write experiments/results/nir/<record>.json.
    """
    file = None if record is None else RESULTS / f"{record}.json"
    check_writable_file("record", file)
    if images < 1:
        raise InputError(f"images={images!r} must be at least 1")
    for needed in (*peers, *(("nirtorch",) if peers else ())):
        if importlib.util.find_spec(needed) is None:
            raise InputError(f"peers={peers!r}: {needed} is not installed; docs/speed.md says how")
    student = load(run)
    network, variables, shape = student.network, student.variables, student.image_shape
    folded = fold_norms(network, variables, shape)
    test = read_config(run).load_data()
    pixels, labels = test.test_images[:images], test.test_labels[:images]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.nir"
        write_nir(path, network, variables, shape, normalisation=student.normalisation)
        read = read_nir(path)
        readers = {
            "as trained, float32": library_reader(network, variables),
            "norms folded, float32": library_reader(*folded),
            "norms folded, float64": in_float64(*folded),
            "the file, float32": library_reader(read.network, read.variables),
            **{f"the file in {name}, float32": PEERS[name](path) for name in peers},
        }
        reference = numpy_reader(path)
        counts = [Counts(name) for name in ("the file in NumPy, float64", *readers)]
        for start in range(0, len(pixels), BATCH_SIZE):
            batch = np.asarray(student.normalisation(pixels[start : start + BATCH_SIZE]))
            frames = np.repeat(np.moveaxis(batch, -1, 1)[:, None], network.num_steps or 1, axis=1)
            expected = reference(frames)
            for count, reader in zip(counts, (lambda _, y=expected: y, *readers.values()), strict=True):
                count.add(reader(frames), expected, labels[start : start + BATCH_SIZE])
    for count in counts:
        print(
            f"{count.reader:34} {count.spikes} spikes, {count.differing_spikes} differ; "
            f"logits to {count.logit_difference:.1g}; "
            f"{count.correct} of {len(labels)} classes right, {count.differing_classes} differ"
        )
    if file is not None:
        options = shlex.join([f"--images={images}", *(["--peers", *peers] if peers else [])])
        content = {
            "command": f"python experiments/check_nir.py RUN {options}",
            "run": command(read_config(run)),
            "images": len(labels),
            "num_steps": network.num_steps,
            "readers": [dataclasses.asdict(count) for count in counts],
        }
        packages = ("nir", "h5py", *peers, *(("torch", "nirtorch") if peers else ()))
        write_record(file, "nir", content, packages)


@dataclasses.dataclass
class Counts:
    """Neuron outputs of one reader, the spikes among them, and differences from NumPy.

    `logit_difference` is the largest; if it is not 0 but the spikes are equal, the readers sum in different orders.
    """

    reader: str
    outputs: int = 0
    spikes: int = 0
    differing_spikes: int = 0
    logit_difference: float = 0.0
    differing_classes: int = 0
    correct: int = 0

    def add(self, found: dict[str, NDArray], expected: dict[str, NDArray], labels: NDArray) -> None:
        """Adds the counts of a batch."""
        assert found.keys() == expected.keys()
        for name in found.keys() - {"output"}:
            self.outputs += found[name].size
            self.spikes += int(found[name].sum())
            self.differing_spikes += int((found[name] != expected[name]).sum())
        difference = np.abs(found["output"] - expected["output"]).max()
        self.logit_difference = max(self.logit_difference, float(difference))
        classes, others = (outputs["output"].mean(1).argmax(-1) for outputs in (found, expected))
        self.differing_classes += int((classes != others).sum())
        self.correct += int((classes == labels).sum())


def in_float64(network: Network, variables: Variables) -> Reader:
    """The network with convolutions, sums and potentials in float64; its weights are those of float32."""
    module: Any = network.module.clone(dtype=jnp.float64)
    reader = library_reader(dataclasses.replace(network, module=module), variables)

    def run(frames: NDArray) -> dict[str, NDArray]:
        with jax.enable_x64(True):
            return reader(frames.astype(np.float64))

    return run


if __name__ == "__main__":
    sys.exit(call(main))
