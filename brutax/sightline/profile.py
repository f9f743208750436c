"""Extinction along a sight line by component: the foreground and every cloud."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from brutax.infer import AbstractOutputs, Table
from brutax.utils._namespace import as_float

FOREGROUND = "foreground"
NODES = 241  # distances of a profile


class ProfileOutputs(AbstractOutputs):
    """Outputs of a problem with the parameters `distance` (cloud,) [kpc], increasing, and `level`
    (cloud + 1,): A_V [mag] in front of the first cloud and behind each.

    "profile": A_V at distances, for some components what they add to it; "clouds": distance and
    A_V of each (the foreground at distance 0). Make it with `profile_outputs`.
    """

    dist: tuple[float, ...] = eqx.field(static=True, default=())  # of the profile [kpc]
    names: tuple[str, ...] = eqx.field(static=True, default=("profile", "clouds"))
    components: tuple[str, ...] = eqx.field(static=True, default=(FOREGROUND,))

    def describe(self, name: str, component: tuple[str, ...]) -> Table:
        if name == "profile":
            return Table({"dist": "kpc", "av": "mag"}, {"dist": np.array(self.dist)})
        return Table(
            {"component": "", "dist": "kpc", "av": "mag"}, {"component": np.array(component)}
        )

    def __call__(
        self, params: Any, data: Any, *, what: tuple[str, ...], component: tuple[str, ...]
    ) -> dict[str, Any]:
        del data
        at = np.array([self.components.index(name) for name in component])
        level = as_float(params["level"])
        place = jnp.append(jnp.zeros_like(level[:1]), as_float(params["distance"]))[at]
        height = jnp.append(level[:1], jnp.diff(level))[at]
        behind = as_float(np.array(self.dist))[:, None] >= place[None, :]
        out = {
            "profile": {"av": jnp.sum(jnp.where(behind, height[None, :], 0.0), axis=1)},
            "clouds": {"dist": place, "av": height},
        }
        return {name: out[name] for name in what}


def profile_outputs(clouds: int, dist_range: tuple[float, float]) -> ProfileOutputs:
    """Outputs of `clouds` clouds: components foreground, cloud_1, cloud_2, ...

    Distances of the profile are even in the logarithm over `dist_range` [kpc].
    """
    near, far = (float(x) for x in dist_range)
    if not 0 < near < far < np.inf:
        raise ValueError(f"dist_range must be positive and increase, found {dist_range}")
    names = tuple(f"cloud_{k + 1}" for k in range(clouds))
    nodes = tuple(float(x) for x in np.geomspace(near, far, NODES))
    return ProfileOutputs(dist=nodes, components=(FOREGROUND, *names))
