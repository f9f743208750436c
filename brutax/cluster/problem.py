"""Clusters in the hands of samplers: priors, problems of `brutax.infer`, a numpyro model."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from brutax import infer, star
from brutax.cluster.model import ClusterModel, ClusterParams
from brutax.cluster.outputs import cluster_outputs
from brutax.infer import AbstractMethod, Posterior, Problem
from brutax.infer.prior import resolve
from brutax.priors import AbstractPrior

NEEDED = ("feh", "loga", "av", "rv", "distance_pc", "field_fraction")


def prior(model: ClusterModel, **given: Any) -> dict[str, Any]:
    """Priors of the parameters of a cluster, by name: numpyro distributions.

    By default flat in [Fe/H] (-2 to 0.45), log10 age (7.5 to 10.14), A_V (0 to 3 mag), field
    and binary fractions, and ln distance (50 pc to 20 kpc); R_V normal, 3.32 +- 0.18 as in
    brutus; with proper motions their mean flat within 50 mas / yr of the sample's and their
    dispersion half-normal, 1 mas / yr. `given` replaces or adds any field of `ClusterParams`:
    distributions, constants, functions of the parameters before; None takes one out. Raises
    `ValueError` for names that are no parameters and for ones that a cluster cannot do without.
    """
    out: dict[str, Any] = {
        "feh": dist.Uniform(-2.0, 0.45),
        "loga": dist.Uniform(7.5, 10.14),
        "av": dist.Uniform(0.0, 3.0),
        "rv": dist.TruncatedNormal(3.32, 0.18, low=1.0, high=8.0),
        "distance_pc": dist.LogUniform(50.0, 20_000.0),
        "field_fraction": dist.Uniform(0.0, 1.0),
        "binary_fraction": dist.Uniform(0.0, 1.0),
    }
    if bool(np.any(np.asarray(model.stars.pm_seen))):
        centre = np.asarray(model.stars.pm_centre)
        out["pm"] = dist.Uniform(centre - 50.0, centre + 50.0)
        out["pm_dispersion"] = dist.HalfNormal(1.0)
    for name, entry in given.items():
        if name not in ClusterParams._fields:
            raise ValueError(
                f"'{name}' is no parameter of a cluster: there are "
                f"{', '.join(ClusterParams._fields)}"
            )
        out[name] = entry
    out = {name: entry for name, entry in out.items() if entry is not None}
    lacking = [name for name in NEEDED if name not in out]
    if lacking:
        raise ValueError(f"a cluster needs {', '.join(lacking)}: a distribution or a number")
    return out


_default_prior = prior  # where an argument has that name


def problem(
    model: ClusterModel,
    prior: Mapping[str, Any] | None = None,
    *,
    colour: tuple[str, str] | None = None,
    band: str | None = None,
) -> Problem:
    """The posterior of a cluster for `brutax.infer.fit`; `prior` as from `cluster.prior`.

    Entries of the prior may also be priors of `brutax.priors`, such as one of A_V of one's own.
    `brutax.compat.socca.fitter(...).getmodel` has the outputs of `ClusterOutputs`, with diagrams
    in `colour`, two bands, and `band`, the magnitude (see `cluster_outputs`), where there are two
    bands. Chains, starts and draws are taken one after the other, however a sampler maps over
    them: side by side they would compute what each of them leaves out.
    """
    entries = _default_prior(model) if prior is None else prior
    several = len(model.pop.filters) > 1
    predict = cluster_outputs(model, colour, band) if several else None
    return Problem(star.prior(entries), _of_dictionary, model, predict, in_turn=True)


def fit(
    model: ClusterModel,
    method: str | AbstractMethod = "nuts",
    prior: Mapping[str, Any] | None = None,
    **options: Any,
) -> Posterior:
    """The posterior of a cluster: `infer.fit(cluster.problem(model, prior), method, **options)`.

        stars = cluster.make_stars(flux, flux_err)
        model = cluster.ClusterModel(StellarPop(Isochrone(), bands), stars)
        posterior = cluster.fit(model, "smc", cluster.prior(model, rv=3.32))

    Raises what these raise.
    """
    return infer.fit(problem(model, prior), method, **options)


def numpyro_model(
    model: ClusterModel, prior: Mapping[str, Any] | None = None, *, prefix: str = ""
) -> ClusterParams:
    """The cluster inside a numpyro program: samples its parameters and adds its likelihood.

    Sites are named `prefix` + parameter (ties are deterministic sites), the likelihood is the
    factor `prefix` + "cluster". `prior` as from `cluster.prior`; its functions see the
    parameters without prefix. Returns the parameters.
    """
    params: dict[str, Any] = {}
    for name, entry in (_default_prior(model) if prior is None else prior).items():
        if isinstance(entry, AbstractPrior):
            params[name] = _sampled(prefix + name, name, entry, params)
            continue
        value = resolve(name, entry, params)
        if isinstance(value, dist.Distribution):
            value = numpyro.sample(prefix + name, value)
        elif callable(entry):
            numpyro.deterministic(prefix + name, value)
        params[name] = value
    out = ClusterParams(**params)
    numpyro.factor(prefix + "cluster", log_likelihood(out, model))
    return out


def _sampled(site: str, name: str, entry: AbstractPrior, params: Mapping[str, Any]) -> Array:
    """A parameter with a prior of `brutax.priors`: uniform draws, and a factor for the density."""
    base = dist.Uniform(*star.density(entry).bounds(name))
    value: Any = numpyro.sample(site, base)
    log_prob = star.density(entry).log_prob({**params, name: value})
    numpyro.factor(f"{site}_prior", log_prob - base.log_prob(value))
    return value


def _of_dictionary(params: dict[str, Any], model: ClusterModel) -> Float[Array, ""]:
    return log_likelihood(ClusterParams(**params), model)


@jax.custom_batching.sequential_vmap
def _value(params: ClusterParams, model: ClusterModel) -> Float[Array, ""]:
    return model.log_likelihood(params)


@jax.custom_batching.sequential_vmap
def _value_and_slopes(params: ClusterParams, model: ClusterModel) -> tuple[Array, ClusterParams]:
    return jax.value_and_grad(lambda p: model.log_likelihood(p))(params)


@eqx.filter_custom_vjp
def log_likelihood(params: ClusterParams, model: ClusterModel) -> Float[Array, ""]:
    """`model.log_likelihood(params)` that `jax.vmap` maps one after the other."""
    return _value(params, model)


@log_likelihood.def_fwd
def _(perturbed: Any, params: ClusterParams, model: ClusterModel) -> tuple[Array, ClusterParams]:
    del perturbed
    return _value_and_slopes(params, model)


@log_likelihood.def_bwd
def _(
    slopes: ClusterParams, cotangent: Array, perturbed: Any, params: ClusterParams, model: Any
) -> ClusterParams:
    del perturbed, params, model
    return jax.tree.map(lambda slope: cotangent * slope, slopes)
