"""Bolometric corrections by the neural networks that brutus uses (`nn_c3k.h5`)."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.data.download import find_nn_file
from brutax.data.filters import FILTERS
from brutax.models.photometry.bolometric import M_BOL_SUN
from brutax.models.state import StarState
from brutax.utils._namespace import ArrayLike, Numeric, as_float

logger = logging.getLogger("brutax")

INPUTS = ("Teff [K]", "log g", "[Fe/H]", "[alpha/Fe]", "A_V", "R_V")
LAYERS = ("w1", "b1", "w2", "b2", "w3", "b3")


class Networks(eqx.Module):
    """One small network per band: (Teff, log g, [Fe/H], [alpha/Fe], A_V, R_V) to BC.

    Two hidden layers of logistic units and a linear output, inputs scaled to [0, 1] over the
    range of training (Speagle et al. 2025); extinction (Fitzpatrick & Massa 2009) is included.
    """

    weights: tuple[Float[Array, "band _ _"], ...]
    biases: tuple[Float[Array, "band _"], ...]
    xmin: Float[Array, " 6"]
    xmax: Float[Array, " 6"]
    bands: tuple[str, ...] = eqx.field(static=True)

    def __call__(self, x: Float[Array, " 6"]) -> Float[Array, " band"]:
        """Bolometric corrections of one star."""
        layer = jnp.broadcast_to(self.encode(x), (len(self.bands), 6))
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            with jax.default_matmul_precision("highest"):
                layer = jnp.einsum("boi,bi->bo", weight, layer) + bias
            layer = jax.nn.sigmoid(layer) if k < 2 else layer
        return layer[:, 0]

    def encode(self, x: Float[Array, " 6"]) -> Float[Array, " 6"]:
        """Inputs scaled to [0, 1]."""
        return (x - self.xmin) / (self.xmax - self.xmin)

    def valid(self, x: Float[Array, " 6"]) -> Bool[Array, ""]:
        """Whether a star lies in the range of training."""
        return jnp.all((x >= self.xmin) & (x <= self.xmax))

    def inputs(
        self, star: StarState, av: Float[Array, ""], rv: Float[Array, ""]
    ) -> Float[Array, " 6"]:
        """The inputs of a star behind dust of A_V [mag] and R_V."""
        return jnp.stack([10.0**star.logt, star.logg, star.feh_surf, star.afe_surf, av, rv])


def read_networks(
    filters: Sequence[str] | None = None, nnfile: str | os.PathLike | None = None
) -> Networks:
    """The networks of some bands (None: all of the file).

    Without `nnfile` the file is looked for where `brutax.data.fetch_nns` puts it. Raises
    `FileNotFoundError` if there is none, `ValueError` for bands it lacks, another layout, and
    networks of different ranges.
    """
    path = find_nn_file() if nnfile is None else Path(nnfile)
    if not path.exists():
        raise FileNotFoundError(f"there is no file of networks {path}")
    try:
        with h5py.File(path, "r") as opened:
            file: Any = opened
            known = [n for n in FILTERS if n in file] + [n for n in file if n not in FILTERS]
            bands = tuple(known if filters is None else filters)
            if lacking := [band for band in bands if band not in known]:
                raise ValueError(f"{path} lacks {lacking}; it has {', '.join(known)}")
            if not bands:
                raise ValueError("give one or more bands")
            read = [
                {n: np.asarray(file[f"{b}/{n}"], np.float64) for n in (*LAYERS, "xmin", "xmax")}
                for b in bands
            ]
    except (OSError, KeyError) as error:
        raise ValueError(f"{path} is no file of networks in brutus' layout: {error}") from error
    low, high = read[0]["xmin"], read[0]["xmax"]
    if any(np.any(one["xmin"] != low) or np.any(one["xmax"] != high) for one in read):
        raise ValueError(f"the networks of {', '.join(bands)} have different ranges of inputs")
    stacked = {}
    for name in LAYERS:  # layers of different widths are padded with units that nothing uses
        shape = np.max([np.atleast_2d(one[name]).shape for one in read], axis=0)
        stacked[name] = np.zeros((len(bands), *shape))
        for k, one in enumerate(read):
            block = np.atleast_2d(one[name])
            stacked[name][k, : block.shape[0], : block.shape[1]] = block
    return Networks(
        tuple(as_float(stacked[n]) for n in ("w1", "w2", "w3")),
        tuple(as_float(stacked[n][..., 0]) for n in ("b1", "b2", "b3")),
        as_float(low),
        as_float(high),
        bands,
    )


class FastNN:
    """brutus' networks, evaluated in NumPy's shapes."""

    def __init__(
        self,
        filters: Sequence[str] | None = None,
        nnfile: str | os.PathLike | None = None,
        verbose: bool = True,
    ):
        self.networks = read_networks(filters, nnfile)
        if verbose:
            logger.info("networks of %d bands", self.NFILT)

    @property
    def filters(self) -> tuple[str, ...]:
        """The bands."""
        return self.networks.bands

    @property
    def NFILT(self) -> int:
        """How many bands."""
        return len(self.networks.bands)

    @property
    def xmin(self) -> np.ndarray:
        """The lower ends of the inputs, (6,)."""
        return np.asarray(self.networks.xmin)

    @property
    def xmax(self) -> np.ndarray:
        """The upper ends of the inputs, (6,)."""
        return np.asarray(self.networks.xmax)

    def encode(self, x: ArrayLike) -> np.ndarray:
        """Inputs (6,) or (6, star) scaled to [0, 1], as (6, 1) or (6, star)."""
        given = np.asarray(x, np.float64)
        if given.ndim not in (1, 2) or given.shape[0] != len(INPUTS):
            raise ValueError(
                f"inputs have the shape {given.shape}; give (6,) or (6, star): {INPUTS}"
            )
        low, high = self.xmin[:, None], self.xmax[:, None]
        return (given.reshape(len(INPUTS), -1) - low) / (high - low)

    def sigmoid(self, a: ArrayLike) -> np.ndarray:
        """1 / (1 + exp(-a))"""
        return np.asarray(jax.nn.sigmoid(as_float(a)))

    def nneval(self, x: ArrayLike) -> np.ndarray:
        """Bolometric corrections, (band,) or (band, star), inside the range or not."""
        scaled = self.encode(x)
        raw = scaled * (self.xmax - self.xmin)[:, None] + self.xmin[:, None]
        return np.squeeze(np.asarray(_evaluate(self.networks, as_float(raw.T)).T))


class FastNNPredictor(FastNN):
    """Magnitudes of stars behind dust from brutus' networks; NaN outside their range."""

    def sed(
        self,
        logt: Any = 3.8,
        logg: Any = 4.4,
        feh_surf: Any = 0.0,
        logl: Any = 0.0,
        afe: ArrayLike = 0.0,
        av: ArrayLike = 0.0,
        rv: ArrayLike = 3.3,
        dist: Numeric = 1000.0,
        filt_idxs: Any = slice(None),
    ) -> np.ndarray:
        """Magnitudes (band,) of one star at `dist` [pc]."""
        mag = self.sed_batch([logt], [logg], [feh_surf], [logl], [afe], av, rv, dist)
        return mag[0][filt_idxs]

    def sed_batch(
        self,
        logt: Any,
        logg: Any,
        feh_surf: Any,
        logl: Any,
        afe: ArrayLike,
        av: ArrayLike,
        rv: ArrayLike,
        dist: Numeric,
        filt_idxs: Any = slice(None),
    ) -> np.ndarray:
        """Magnitudes (star, band) of stars at `dist` [pc] behind the same dust."""
        columns = [10.0 ** np.asarray(logt, np.float64), logg, feh_surf, afe, av, rv]
        x = np.stack(np.broadcast_arrays(*(np.atleast_1d(c) for c in columns)), axis=1)
        inside = (x >= self.xmin) & (x <= self.xmax)
        good = inside.all(axis=1) & np.isfinite(np.broadcast_to(logl, len(x))) & (np.all(dist > 0))
        bc = np.asarray(_evaluate(self.networks, as_float(np.where(good[:, None], x, self.xmin))))
        modulus = 5.0 * np.log10(dist) - 5.0
        mag = M_BOL_SUN - 2.5 * np.asarray(logl, np.float64)[..., None] - bc + modulus
        return np.where(good[:, None], mag, np.nan)[:, filt_idxs]


@eqx.filter_jit
def _evaluate(networks: Networks, x: Float[Array, "star 6"]) -> Float[Array, "star band"]:
    return jax.vmap(networks)(x)
