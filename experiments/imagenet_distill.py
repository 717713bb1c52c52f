"""Distil a spiking student on ImageNet, or on any other TFDS image set that is too large for memory.

    python experiments/imagenet_distill.py --data-dir DIR    # ResNet-34 to SEW-ResNet-18, T = 4, 224x224
    python experiments/imagenet_distill.py --data-dir DIR --dataset NAME --image-size 128

DIR holds `imagenet2012` as prepared by TFDS in the format array_record. A part of its "train" split is held out for
validation; its "validation" split is the test set, used once, since the labels of its "test" split are not published.
Run the same command to resume. `--help` explains every argument.
"""

import sys

from snnkd_jax.cli.train import main

if __name__ == "__main__":
    sys.exit(main(dataset="imagenet2012"))
