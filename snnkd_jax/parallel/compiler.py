"""Compiler options, and the compilation cache."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache as jax_cache


@functools.cache
def compile_options(platform: str | None = None) -> dict[str, str]:
    """Options of `jax.jit` that make this code fast on `platform`, by default JAX's.

    They are experimental: tried once, and left out where the compiler does not know them.
    """
    if (platform or jax.default_backend()) != "cpu":
        return {}
    # jax 0.10 sends convolutions to a library that is 2-4x slower at 64 channels; this keeps them with Eigen.
    options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"}
    try:
        jax.jit(lambda x: x + 1, compiler_options=options).lower(0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def quick_compile_options(platform: str | None = None) -> dict[str, str]:
    """Options of `jax.jit` for a program that runs once, such as the initialisation of a network.

    On CPU, where compiling takes longer than running, it is compiled without optimisation.
    """
    if (platform or jax.default_backend()) != "cpu":
        return {}
    return {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": "True"}


@contextlib.contextmanager
def compilation_cache(directory: Path) -> Iterator[None]:
    """Caches compiled programs in `directory`, so that a resumed run does not compile the same step again.

    A cache that the user has set up (`JAX_COMPILATION_CACHE_DIR`) is used instead.
    """
    options = {"jax_compilation_cache_dir": str(directory), "jax_persistent_cache_min_compile_time_secs": 0.5}
    before = {name: getattr(jax.config, name) for name in options}
    if before["jax_compilation_cache_dir"] is not None:
        yield
        return

    def configure(values: dict[str, Any]) -> None:
        for name, value in values.items():
            jax.config.update(name, value)
        jax_cache.reset_cache()  # JAX opens the cache once per process, for its first program

    configure(options)
    try:
        yield
    finally:
        configure(before)
