"""Image classification data sets, from arrays or by name, in memory or on disk; normalisation and augmentation.

`from_arrays` takes arrays. `load("digits")` and `load("event_digits")` need no download; `load("mnist")`,
`"fashion_mnist"`, `"cifar10"` and `"cifar100"` read the TFDS directory under `TFDS_DATA_DIR` and prepare it first where
it is missing.
`on_disk.open_dataset` opens any other prepared set, whatever its size. TensorFlow is never imported.
"""

from snnkd_jax.data.arrays import from_arrays as from_arrays
from snnkd_jax.data.augment import Augmentation as Augmentation
from snnkd_jax.data.dataset import Dataset as Dataset
from snnkd_jax.data.event_augment import EventAugmentation as EventAugmentation
from snnkd_jax.data.events import Binning as Binning
from snnkd_jax.data.events import Events as Events
from snnkd_jax.data.loading import NAMES as NAMES
from snnkd_jax.data.loading import load as load
from snnkd_jax.data.loading import shape_of as shape_of
from snnkd_jax.data.normalisation import Normalisation as Normalisation
from snnkd_jax.data.student_noise import StudentNoise as StudentNoise
