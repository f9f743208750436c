"""Inputs of the solver: models as arrays on the device, and the priors of a star."""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from brutax.priors import AbstractAvPrior, AbstractPrior, AbstractRvPrior, Point
from brutax.utils import as_float


class Models(eqx.Module):
    """Stellar models as the solver reads them: one row per band, so that inner loops are models.

    Magnitudes are at 1 kpc, m_b = mag + A_V (red + R_V dred) + 5 log10(d / kpc). Indexing picks
    models. `log_prior` is ln of the prior mass of each model up to a constant, `labels` what priors
    and summaries use of them.
    """

    mag: Float[Array, "band *model"] = eqx.field(converter=as_float)
    red: Float[Array, "band *model"] = eqx.field(converter=as_float)  # at R_V = 0
    dred: Float[Array, "band *model"] = eqx.field(converter=as_float)  # per unit R_V
    log_prior: Float[Array, "*model"] = eqx.field(converter=as_float)  # ln pi_k; -inf: excluded
    labels: dict[str, Float[Array, "*model"]]

    def __getitem__(self, index: Any) -> "Models":
        return Models(
            mag=self.mag[:, index],
            red=self.red[:, index],
            dred=self.dred[:, index],
            log_prior=self.log_prior[index],
            labels={name: values[index] for name, values in self.labels.items()},
        )

    def point(self, **quantities: Any) -> Point:
        """The labels that priors may depend on, with the `quantities` of a star added."""
        known = {name: self.labels[name] for name in Point._fields if name in self.labels}
        return Point(**known)._replace(**quantities)


def make_models(
    mag: Any,
    red: Any,
    dred: Any,
    log_prior: Any,
    labels: Mapping[str, Any],
) -> Models:
    """Models on the device, from tables (model, band) and columns (model,).

    `mag` [mag] at 1 kpc, `red` and `dred` as in `Models`. A model whose log prior is not finite can
    never be drawn.
    """
    log_prior = np.where(np.isfinite(log_prior), log_prior, -np.inf)
    return Models(
        mag=np.ascontiguousarray(np.asarray(mag).T),
        red=np.ascontiguousarray(np.asarray(red).T),
        dred=np.ascontiguousarray(np.asarray(dred).T),
        log_prior=log_prior,
        labels={name: as_float(labels[name]) for name in sorted(labels)},  # JAX sorts keys too
    )


def over_models(function: Callable, models: Models, *others: Any) -> Any:
    """Maps a function of one model, and of `others` with a leading axis, over a table of models."""
    axes = jax.tree.map(lambda leaf: leaf.ndim - 1, models)
    return jax.vmap(function, in_axes=(axes, *[0] * len(others)))(models, *others)


class StarPrior(eqx.Module):
    """The priors of the distance [kpc], A_V [mag] and R_V of a star.

    `distance` is a density per kpc that may depend on the direction and on the labels of the model,
    `av` one that may depend on the distance. The prior mass of each model (mass function, age, size
    of its grid cell) is part of `Models`.
    """

    distance: AbstractPrior
    av: AbstractAvPrior | None  # None: given beside, one for each star
    rv: AbstractRvPrior
