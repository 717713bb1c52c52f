"""SpikingJelly 2 as in `spikingjelly_net`, through torch.compile."""

import functools

from .spikingjelly_net import make_step as _make_step

make_step = functools.partial(_make_step, compiled=True)
