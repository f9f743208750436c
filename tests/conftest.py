"""Shared settings and data of the tests."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

sys.path.insert(0, str(Path(__file__).parent))  # modules that tests share
os.environ.setdefault("MPLBACKEND", "Agg")
# Programs of tests run once or twice: most of their time is that of the compiler, which is faster
# without optimising. A flag that XLA does not know ends the process: other versions get none.
if version("jaxlib").startswith("0.10."):
    flags = "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
    os.environ.setdefault("XLA_FLAGS", flags)

# every shape annotation of the package becomes an assertion
with install_import_hook("brutax", "beartype.beartype"):
    import brutax  # noqa: F401
    from brutax.cache import programs

# small programs are kept, too: the next module, and the other process, need the same ones
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
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


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What the tests build and fetch stays out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRUTAX_DATA_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Compiled programs map memory, of which a process may only have so many pieces."""
    yield
    jax.clear_caches()
    programs.forget()


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


@pytest.fixture(scope="session")
def small_grid():
    """Demonstration models in five bands: small enough to fit in milliseconds."""
    bands = ("PS_g", "PS_r", "PS_i", "2MASS_J", "2MASS_Ks")
    return brutax.demo_grid(bands=bands, n_mass=20, n_eep=24, n_feh=5)


@pytest.fixture(scope="session")
def small_stars(small_grid):
    """Twenty-one stars on models of the small grid, one of them unseen."""
    rng = np.random.default_rng(5)
    n = 21
    model = rng.integers(0, len(small_grid), n)
    dist, av, rv = rng.uniform(0.2, 3.0, n), rng.uniform(0.0, 2.0, n), rng.normal(3.32, 0.18, n)
    red = small_grid.red[model] + rv[:, None] * small_grid.dred[model]
    mag = small_grid.mag[model] + av[:, None] * red + 5 * np.log10(dist)[:, None]
    flux = 10 ** (-0.4 * mag)
    err = 0.03 * flux
    flux = flux + err * rng.normal(size=flux.shape)
    flux[3] = np.nan
    flux[4, 0], flux[5, 1:] = np.nan, np.nan
    parallax_err = np.full(n, 0.1)
    parallax = 1 / dist + parallax_err * rng.normal(size=n)
    parallax[7] = np.nan
    coords = np.stack([rng.uniform(0, 360, n), rng.uniform(-80, 80, n)], axis=1)
    coords[8] = np.nan
    return brutax.catalog.make_catalog(
        flux,
        err,
        small_grid.bands,
        parallax=parallax,
        parallax_err=parallax_err,
        coords=coords,
        source_id=np.arange(n) + 10**17,
    )
