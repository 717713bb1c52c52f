"""`python -m snnkd_jax.cli`, where the command `snnkd` is not on the path."""

import sys

from snnkd_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
