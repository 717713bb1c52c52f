"""The figures of the documentation, one file each; they are drawn into `docs/figures/`."""
