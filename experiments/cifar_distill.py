"""Distil a spiking student from an ANN teacher: KDSNN (CVPR 2023, arXiv 2304.05627) and its successors.

    python experiments/cifar_distill.py --dataset digits     # two minutes on two CPU cores, no network
    python experiments/cifar_distill.py                      # the paper's: CIFAR-10, PyramidNet-18 to ResNet-18, T = 4

It is `snnkd train`. Run the same command to resume. `--help` explains every argument.
"""

import sys

from snnkd_jax.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
