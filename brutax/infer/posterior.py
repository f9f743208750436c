"""What a run returns: weighted draws, evidence, and whether to trust them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax
import jax.numpy as jnp
import numpy as np

from brutax.utils import ArrayLike, quantile
from brutax.utils.durable import read_datasets, replace

MAGIC = "brutax.infer posterior"


def _as_jax(params: dict[str, Any]) -> dict[str, Any]:
    return {name: jnp.asarray(value, float) for name, value in params.items()}


class Row(NamedTuple):
    """Moments and quantiles of one parameter; of arrays, element by element."""

    mean: Any
    std: Any
    low: Any  # 16 %
    median: Any
    high: Any  # 84 %


@dataclass(frozen=True)
class Posterior:
    """Draws of all parameters (draw, *shape), chains one after the other, and their weights.

    `weights` sum to one. `logz` is the natural log of the evidence, NaN where the method has none.
    `stats` holds numbers by name (`rhat/a`, `ess/a` for a parameter a). `warnings` says what is
    wrong; `ok` is that nothing is. `sampler` is the object of dynesty, nautilus, emcee or pocoMC
    right after a fit, and is not saved.
    """

    method: str
    samples: dict[str, np.ndarray]
    weights: np.ndarray
    log_likelihood: np.ndarray
    log_prior: np.ndarray
    n_chains: int = 1
    logz: float = float("nan")
    logz_err: float = float("nan")
    stats: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    sampler: Any = field(default=None, repr=False, compare=False)

    @property
    def ok(self) -> bool:
        return not self.warnings

    @property
    def ess(self) -> float:
        """Effective number of draws: Kish's of the weights, or the smallest of the chains."""
        found = [np.min(v) for k, v in self.stats.items() if k.startswith("ess/")]
        return float(min(found)) if found else float(1.0 / np.sum(self.weights**2))

    def quantile(self, q: ArrayLike) -> dict[str, np.ndarray]:
        """Weighted quantiles of every parameter, (*q, *shape)."""
        q = np.asarray(q, float)

        def of(values: np.ndarray) -> np.ndarray:
            flat = values.reshape(len(values), -1).astype(float)
            out = [quantile(column, q, self.weights) for column in flat.T]
            return np.stack(out, axis=-1).reshape((*q.shape, *values.shape[1:]))

        return {name: of(values) for name, values in self.samples.items()}

    def summary(self) -> dict[str, Row]:
        """Moments and quantiles by parameter."""
        levels = self.quantile([0.16, 0.5, 0.84])
        out = {}
        for name, values in self.samples.items():
            mean = np.tensordot(self.weights, values, 1)
            std = np.sqrt(np.tensordot(self.weights, (values - mean) ** 2, 1))
            out[name] = Row(mean, std, *levels[name])
        return out

    @property
    def best(self) -> dict[str, np.ndarray]:
        """The draw of the highest posterior density."""
        at = int(np.argmax(self.log_likelihood + self.log_prior))
        return {name: values[at] for name, values in self.samples.items()}

    def resample(self, rng: np.random.Generator, n: int) -> "dict[str, np.ndarray]":
        """`n` draws of equal weight, with replacement."""
        at = rng.choice(len(self.weights), n, p=self.weights)
        return {name: values[at] for name, values in self.samples.items()}

    def columns(self) -> dict[str, np.ndarray]:
        """Draws (draw,) of every number: elements of arrays as `name[0]`, `name[1]`, ..."""
        out = {}
        for name, values in self.samples.items():
            if values.ndim == 1:
                out[name] = values
            else:
                flat = values.reshape(len(values), -1)
                out |= {f"{name}[{k}]": flat[:, k] for k in range(flat.shape[1])}
        return out

    def predict(
        self,
        function: Callable[[dict[str, Any]], Any],
        *,
        at: str = "draws",
        n: int = 500,
        q: ArrayLike = (0.16, 0.5, 0.84),
        seed: int = 0,
        batch: int = 64,
    ) -> Any:
        """What `function(params)`, in JAX, is under the posterior; any pytree of arrays.

        `at="draws"` returns quantiles `q` of its values at `n` draws, (*q, *shape); "best" and
        "median" (of each parameter by itself) its value there. `batch` draws go side by side.
        """
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            if at in ("best", "median"):
                params = self.best if at == "best" else self.quantile(0.5)
                return jax.tree.map(np.asarray, jax.jit(function)(_as_jax(params)))
            if at != "draws":
                raise ValueError(f"at is 'draws', 'best' or 'median', found '{at}'")
            draws = _as_jax(self.resample(np.random.default_rng(seed), n))
            values = jax.jit(lambda x: jax.lax.map(function, x, batch_size=min(batch, n)))(draws)
        levels = np.asarray(q, float)
        return jax.tree.map(lambda x: np.quantile(np.asarray(x, float), levels, axis=0), values)

    def to_arviz(self) -> Any:
        """An ArviZ InferenceData (0.x) or DataTree (1.x); weighted draws are resampled first."""
        try:
            import arviz
        except ImportError as error:
            raise ImportError("to_arviz needs ArviZ: pip install 'brutax[arviz]'") from error
        if np.ptp(self.weights) > 0:
            draws = self.resample(np.random.default_rng(0), max(int(self.ess), 1))
            chains = 1
        else:
            draws, chains = self.samples, self.n_chains
        draws = {k: v.reshape(chains, -1, *v.shape[1:]) for k, v in draws.items()}
        if int(arviz.__version__.split(".")[0]) == 0:
            return arviz.from_dict(posterior=draws)
        return arviz.from_dict({"posterior": draws})

    def save(self, path: str | Path) -> None:
        """Writes plain HDF5, in place of an older file in one step."""
        path = Path(path)
        partial = path.with_name(path.name + ".new")
        with h5py.File(partial, "w") as file:
            for name, values in self.samples.items():
                file.create_dataset(f"samples/{name}", data=values)
            for name in ("weights", "log_likelihood", "log_prior"):
                file.create_dataset(name, data=getattr(self, name))
            for name, value in self.stats.items():
                file.create_dataset(f"stats/{name}", data=value)
            file.attrs.update(
                magic=MAGIC,
                method=self.method,
                n_chains=self.n_chains,
                logz=self.logz,
                logz_err=self.logz_err,
                warnings=json.dumps(self.warnings),
                meta=json.dumps(self.meta),
                order=json.dumps(list(self.samples)),
            )
        replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> "Posterior":
        """Reads what `save` wrote; only numbers and JSON, nothing is executed."""
        with h5py.File(path, "r") as file:
            if file.attrs.get("magic") != MAGIC:
                raise ValueError(f"{path} is not a posterior written by brutax.infer")
            arrays = read_datasets(file)
            attrs: dict[str, Any] = dict(file.attrs)
        stats = {k.split("/", 1)[1]: v for k, v in arrays.items() if k.startswith("stats/")}
        return cls(
            method=str(attrs["method"]),
            samples={name: arrays[f"samples/{name}"] for name in json.loads(str(attrs["order"]))},
            weights=arrays["weights"],
            log_likelihood=arrays["log_likelihood"],
            log_prior=arrays["log_prior"],
            n_chains=int(attrs["n_chains"]),
            logz=float(attrs["logz"]),
            logz_err=float(attrs["logz_err"]),
            stats=stats,
            warnings=tuple(json.loads(str(attrs["warnings"]))),
            meta=json.loads(str(attrs["meta"])),
        )
