"""Compilation without optimisation, for programs that run once or twice: compiling is what takes their time."""

import functools

import jax

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
