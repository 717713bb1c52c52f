"""Tests run on eight virtual CPU devices. Warnings are errors, by the configuration in pyproject.toml."""

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
