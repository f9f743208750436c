"""Sight lines in the hands of samplers: priors and problems of `brutax.infer`."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float

from brutax.dust.sightline import CloudParams, SightLine
from brutax.infer import Problem
from brutax.infer.prior import resolve
from brutax.sightline.profile import profile_outputs

# normal priors of logarithms: mean and standard deviation
OUTLIERS = (-3.0, 0.7)  # as in brutus
SCATTER = (-2.3, 0.7)  # ln of [mag]: about 0.1


def _gaps(inner: int) -> dist.Distribution:
    """Shares of a range that ordered numbers cut it into: see `sightline.prior`."""
    return dist.Dirichlet(jnp.asarray([1.0, *[2.0] * inner, 1.0]))


def _distance(params: dict[str, Any], near: float, far: float) -> Array:
    return near * jnp.exp(jnp.cumsum(params["dist_gaps"])[:-1] * jnp.log(far / near))


def _level(params: dict[str, Any], low: float, high: float) -> Array:
    return low + (high - low) * jnp.cumsum(params["av_gaps"])[:-1]


def _exp(params: dict[str, Any], name: str) -> Array:
    return jnp.exp(params[name])


def prior(line: SightLine, clouds: int, **given: Any) -> dict[str, Any]:
    """Priors of the parameters of `clouds` clouds, by name: numpyro distributions and ties.

    The ln of `distance` [kpc] cuts its range into pieces that have a Dirichlet distribution, and
    so does `level` (A_V in front of the first cloud and behind each, [mag]): exponents 1 at the
    ends, and 2 in between, so that two clouds in one place and clouds that redden nothing are
    unlikely before (Green 1995, Biometrika 82, 711, with even order statistics). The pieces are
    the parameters (`dist_gaps`, `av_gaps`), distances and levels are ties; the prior is
    normalised and evidences of different numbers of clouds compare. `scatter` [mag] in front and
    behind is log-normal about 0.1 (0.7 in ln), the share of `outliers` as in brutus about exp(-3)
    (0.7 in ln). `given` replaces an entry: distributions, constants, functions of the parameters
    before. Raises `ValueError` for unknown names and numbers of clouds.
    """
    if clouds < 0 or clouds != int(clouds):
        raise ValueError(f"the number of clouds is 0 or more, found {clouds}")
    out: dict[str, Any] = {}
    near, far = line.dist_range
    low, high = line.av_range
    if clouds:
        out["dist_gaps"] = _gaps(clouds - 1)
        out["distance"] = functools.partial(_distance, near=near, far=far)
    else:
        out["distance"] = jnp.zeros(0)
    out["av_gaps"] = _gaps(clouds)
    out["level"] = functools.partial(_level, low=low, high=high)
    out["log_scatter"] = dist.Normal(jnp.full(2, SCATTER[0]), SCATTER[1])
    out["scatter"] = functools.partial(_exp, name="log_scatter")
    out["log_outliers"] = dist.TruncatedNormal(*OUTLIERS, high=0.0)
    out["outliers"] = functools.partial(_exp, name="log_outliers")
    sources = {"distance": "dist_gaps", "level": "av_gaps", "scatter": "log_scatter"}
    sources["outliers"] = "log_outliers"
    for name, entry in given.items():
        if name not in out:
            raise ValueError(f"'{name}' is no parameter of clouds: there are {', '.join(out)}")
        out[name] = entry
        if name in sources:  # what it was made of is no parameter any more
            out.pop(sources[name], None)
    out["jump"] = _jump
    return out


def _jump(params: dict[str, Any]) -> Array:
    return jnp.diff(params["level"])


_default_prior = prior  # where an argument has that name


def problem(line: SightLine, clouds: int, prior: Mapping[str, Any] | None = None) -> Problem:
    """The posterior of `clouds` clouds for `brutax.infer`; `prior` as from `sightline.prior`.

    Of a stack of sight lines it is that of the first; `infer.fit_many(problem, data=stack)` fits
    all of them.
    """
    entries = _default_prior(line, clouds) if prior is None else prior
    first = line
    while first.weight.ndim > 1:
        first = _first(first)
    predict = profile_outputs(clouds, first.dist_range)
    return Problem(entries, log_likelihood, first, predict)


def _first(line: SightLine) -> SightLine:
    return jax.tree.map(lambda x: x[0], line)


def log_likelihood(params: Mapping[str, Any], line: SightLine) -> Float[Array, ""]:
    """ln L of a sight line at parameters by name (those of `CloudParams`); pure and differentiable.

    `distance` [kpc] (cloud,), `level` [mag] (cloud + 1,), `scatter` [mag] (2,), `outliers` a share.
    """
    return line.log_likelihood(CloudParams(*(params[name] for name in CloudParams._fields)))


def numpyro_model(
    line: SightLine, clouds: int, prior: Mapping[str, Any] | None = None, *, name: str = "sightline"
) -> dict[str, Any]:
    """The clouds of a sight line inside a numpyro program: samples them, adds their likelihood.

    Sites are named `name` + "_" + parameter (ties are deterministic sites), the likelihood is the
    factor `name`. `prior` as from `sightline.prior`. Returns the parameters by name.
    """
    params: dict[str, Any] = {}
    for key, entry in (_default_prior(line, clouds) if prior is None else prior).items():
        value = resolve(key, entry, params)
        if isinstance(value, dist.Distribution):
            value = numpyro.sample(f"{name}_{key}", value)
        elif callable(entry):
            numpyro.deterministic(f"{name}_{key}", value)
        params[key] = value
    numpyro.factor(name, log_likelihood(params, line))
    return params
