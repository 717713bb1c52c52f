"""Distil a spiking student on ImageNet, or on any other TFDS image set that is too large for memory.

    python experiments/imagenet_distill.py --data-dir DIR    # ResNet-34 to SEW-ResNet-18, T = 4, 224x224
    python experiments/imagenet_distill.py --data-dir DIR --dataset NAME --image-size 128

DIR holds `imagenet2012` as TFDS prepares it in the format array_record. Hyper-parameters see a part of its "train" that
is held out; its "validation", whose labels are the only others that are published, is the test set, used once. The
same command goes on where it was interrupted. `--help` explains every argument.
"""

import sys

from snnkd_jax.cli.train import main

if __name__ == "__main__":
    sys.exit(main(dataset="imagenet2012"))
