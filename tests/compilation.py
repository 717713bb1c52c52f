"""What makes XLA compile quickly, for tests: in most of them compiling is what takes the time."""

import atexit
import gc
import os
import tempfile
import threading
from collections.abc import Callable
from typing import Any

import jax
from jax._src import api, compiler  # no option for all programs is public but XLA_FLAGS, which a process reads once
from jax._src.interpreters import mlir
from jaxlib.mlir import ir

# The older emitters take half the time of those that replace them. jaxlib 0.12 has none and ends at a flag that it does
# not know; 0.11 was not tried.
HAS_OLDER_EMITTERS = jax.__version_info__ < (0, 11)

# XLA_FLAGS of processes that are compared with none that compile otherwise, or loosely.
QUICKLY = "--xla_backend_optimization_level=0" + " --xla_cpu_use_fusion_emitters=false" * HAS_OLDER_EMITTERS

_as_a_user: Any = compiler.get_compile_options


def _with_older_emitters(*arguments: Any, env_options_overrides: dict[str, Any] | None = None, **others: Any) -> Any:
    overrides = {"xla_cpu_use_fusion_emitters": False} | (env_options_overrides or {})
    return _as_a_user(*arguments, env_options_overrides=overrides, **others)


def compile_quickly(quickly: bool) -> None:
    """How this process compiles from now on: without optimisation and by the older emitters, or as a user's does.

    Programs that were compiled the other way, such as one that initialises a network, are forgotten: their rounding
    is another.
    """
    if jax.config.read("jax_disable_most_optimizations") != quickly:
        jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", quickly)
    compiler.get_compile_options = _with_older_emitters if quickly and HAS_OLDER_EMITTERS else _as_a_user


# Programs that are compiled faster than they are written and read are not kept.
CACHE_DIR = "jax_compilation_cache_dir"
CACHE = {CACHE_DIR: None, "jax_persistent_cache_min_compile_time_secs": 0.12}


def compile_once() -> Callable[[], None]:
    """Keeps compiled programs for this process and those that it starts; returns what deletes them."""
    directory = tempfile.TemporaryDirectory(prefix="compiled-")
    for name, value in (CACHE | {CACHE_DIR: directory.name}).items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)
    return directory.cleanup


def work_quickly() -> None:
    """For this process: one MLIR context a thread for all programs, few collections, and no end of JAX.

    To make a context takes as long as to lower a small program, of which tests have thousands. A program that is
    lowered within another, as constants are, has a context of its own. A context keeps the constants of its programs,
    so that another takes its place from time to time.
    """
    make_ir_context, of_thread = mlir.make_ir_context, threading.local()

    def shared() -> Any:
        if ir.Context.current is not None:
            return make_ir_context()
        count = of_thread.count = getattr(of_thread, "count", -1) + 1
        if count % 200 == 0:
            of_thread.context = make_ir_context()
        return of_thread.context

    mlir.make_ir_context = shared
    gc.set_threshold(50_000, 20, 50)
    atexit.unregister(api.clean_up)
