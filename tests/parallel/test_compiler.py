"""Where compiled programs are kept."""

import jax
import numpy as np
import pytest
from compilation import CACHE, CACHE_DIR
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from snnkd_jax.parallel.compiler import compilation_cache


@pytest.fixture
def set_up():
    """Sets up a cache as a user does."""

    def update(**values):
        for name, value in values.items():
            jax.config.update(name, value)
        jax_cache.reset_cache()  # it is opened by the first program

    before = {name: getattr(jax.config, name) for name in CACHE}
    yield lambda directory: update(**{CACHE_DIR: directory})
    update(**before)


@pytest.mark.parametrize("users", [True, False])
def test_a_cache_of_the_users_is_left_in_its_place(tmp_path, set_up, users):
    directory = str(tmp_path / "users") if users else None
    set_up(directory)
    with compilation_cache(tmp_path / "own"):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # else it would keep slow ones only
        jax.jit(lambda x: x + 1.25)(np.arange(3.0))
    assert getattr(jax.config, CACHE_DIR) == directory
    assert [path.name for path in tmp_path.iterdir()] == ["users" if users else "own"]
