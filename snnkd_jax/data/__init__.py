"""Image classification data sets, those in `NAMES` each held in memory as four NumPy arrays.

`load("digits")` needs nothing; `load("mnist")`, `"fashion_mnist"`, `"cifar10"` and `"cifar100"` read the TFDS
directory under `TFDS_DATA_DIR` and prepare it first where it is missing. `streamed.open_streamed` opens any other one
that is there, whatever its size. TensorFlow is never imported.
"""

from snnkd_jax.data.dataset import Dataset as Dataset
from snnkd_jax.data.loading import NAMES as NAMES
from snnkd_jax.data.loading import load as load
from snnkd_jax.data.loading import shape_of as shape_of
