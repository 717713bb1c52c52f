"""Compiler options, and the cache of compiled programs."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache as compilation_cache_module

_CPU_OPTIONS = {
    # jax 0.10 sends convolutions to a library that is 2-4x slower at 64 channels; this keeps them with Eigen.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE",
}


@functools.cache
def compile_options(platform: str | None = None) -> dict[str, str]:
    """Options of `jax.jit` that make this code fast on `platform`, by default JAX's.

    They are experimental: tried once, and left out where the compiler does not know them.
    """
    if (platform or jax.default_backend()) != "cpu":
        return {}
    try:
        jax.jit(lambda x: x + 1, compiler_options=_CPU_OPTIONS).lower(0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return dict(_CPU_OPTIONS)


def quick_compile_options(platform: str | None = None) -> dict[str, str]:
    """Options of `jax.jit` for a program that runs once, such as the initialisation of a network.

    On CPU, where it takes longer to be compiled than to run, it is compiled without optimisation.
    """
    if (platform or jax.default_backend()) != "cpu":
        return {}
    return {"xla_backend_optimization_level": "0", "xla_llvm_disable_expensive_passes": "True"}


@contextlib.contextmanager
def compilation_cache(directory: Path) -> Iterator[None]:
    """Keeps compiled programs in `directory`, so that the same step is not compiled again when a run is resumed.

    A cache that the user has set up (`JAX_COMPILATION_CACHE_DIR`) is left in its place.
    """
    names = {"jax_compilation_cache_dir": str(directory), "jax_persistent_cache_min_compile_time_secs": 0.5}
    before = {name: getattr(jax.config, name) for name in names}
    if before["jax_compilation_cache_dir"] is not None:
        yield
        return
    for name, value in names.items():
        jax.config.update(name, value)
    compilation_cache_module.reset_cache()  # it is opened once a process, where the first program found it
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache_module.reset_cache()
