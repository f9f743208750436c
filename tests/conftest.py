"""Shared settings and data of the tests."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("MPLBACKEND", "Agg")

# every shape annotation of the package becomes an assertion
with install_import_hook("brutax", "beartype.beartype"):
    import brutax  # noqa: F401

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_collection_modifyitems(config, items):
    """Leaves out slow tests unless they are asked for with `-m slow` (or any `-m`)."""
    if config.option.markexpr:
        return
    slow = pytest.mark.skip(reason="slow: run with -m 'slow or not slow'")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(slow)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real grids, catalogues and exact answers, where the machine has them."""
    root = os.environ.get("BRUTAX_SHARED_DATA")
    path = Path(root) if root else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the shared test data (BRUTAX_SHARED_DATA or ../shared/data) are not here")
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20250303)


def tolerance(single: float, double: float) -> float:
    """The tolerance for the precision in use."""
    return double if jax.config.read("jax_enable_x64") else single
