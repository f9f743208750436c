"""Chains: where they start, whether they agree, how many independent draws they are."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin

from brutax.infer.names import refuse_unknown
from brutax.infer.problem import Problem

N_TRIES = 64  # prior draws per chain among which one of finite density is looked for
MAX_RHAT, MIN_ESS = 1.01, 400.0  # Vehtari et al. (2021), arXiv:1903.08008
MAX_RHAT_WALKERS = 1.05  # 50 autocorrelation times each let walkers differ by 1.02
N_TAU = 50  # autocorrelation times that a chain of walkers must be long (emcee's advice)
WINDOW = 5.0  # autocorrelation times over which one is summed (Sokal 1997)


def start(problem: Problem, key: PRNGKeyArray, data: PyTree, n: int) -> Any:
    """`n` draws from the prior at which the density is finite, as flat vectors (n, size)."""

    def one(key: PRNGKeyArray) -> Any:
        draws = jax.vmap(problem.sample_real)(jax.random.split(key, N_TRIES))
        density = jax.lax.map(lambda z: problem.density(z, data).log_target, draws)
        return draws[jnp.argmax(jnp.isfinite(density))]  # the first one that is possible

    return jax.vmap(one)(jax.random.split(key, n))


def autocorrelation_time(x: np.ndarray) -> np.ndarray:
    """Integrated autocorrelation time [steps] of walkers (step, walker, dimension).

    The autocorrelation is averaged over walkers (Foreman-Mackey's advice in the documentation of
    emcee) and summed over a window of 5 of these times. NaN for what does not move.
    """
    n = len(x)
    centred = x - x.mean(axis=0)
    size = 2 ** int(np.ceil(np.log2(max(2 * n, 2))))
    power = np.abs(np.fft.rfft(centred, size, axis=0)) ** 2
    acf = np.fft.irfft(power, size, axis=0)[:n]
    with np.errstate(invalid="ignore", divide="ignore"):
        rho = np.mean(acf / acf[:1], axis=1)
    out = np.full(x.shape[2], np.nan)
    for k in range(x.shape[2]):
        if np.isfinite(rho[:, k]).all():
            tau = 2.0 * np.cumsum(rho[:, k]) - 1.0
            enough = np.flatnonzero(np.arange(n) >= WINDOW * tau)
            out[k] = tau[enough[0] if enough.size else -1]
    return out


def diagnose(
    samples: Mapping[str, np.ndarray], names: Any, *, walkers: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Numbers (`rhat/a`, `ess/a`) and warnings for parameters (chain, draw, *shape).

    `walkers` move together: their effective number follows from their autocorrelation time
    (`tau/a`), and R-hat only tells those that are stuck.
    """
    stats: dict[str, Any] = {}
    warnings = []
    for name in names:
        chains = np.asarray(samples[name], np.float64)
        stats[f"rhat/{name}"] = rhat = split_gelman_rubin(chains)
        if walkers:
            flat = chains.reshape(*chains.shape[:2], -1)
            tau = autocorrelation_time(np.swapaxes(flat, 0, 1)).reshape(chains.shape[2:])
            stats[f"tau/{name}"] = tau
            with np.errstate(divide="ignore"):
                stats[f"ess/{name}"] = chains.shape[0] * chains.shape[1] / tau
            if not np.max(tau) * N_TAU <= chains.shape[1]:
                warnings.append(
                    f"{chains.shape[1]} steps are fewer than {N_TAU} autocorrelation times "
                    f"of {name} ({np.max(tau):.3g})"
                )
        else:
            stats[f"ess/{name}"] = effective_sample_size(chains)
        if not np.max(rhat) <= (MAX_RHAT_WALKERS if walkers else MAX_RHAT):
            who = "walkers" if walkers else "chains"
            warnings.append(f"R-hat of {name} is {np.max(rhat):.3g}: the {who} disagree")
        least = np.min(stats[f"ess/{name}"])
        if not least >= MIN_ESS:
            warnings.append(f"{name} has {least:.0f} effective draws, below {MIN_ESS:.0f}")
    return stats, warnings


def worst(stats: Mapping[str, Any]) -> dict[str, float]:
    """The largest R-hat and the smallest effective number of draws of any parameter."""
    rhats = [np.max(v) for k, v in stats.items() if k.startswith("rhat/")]
    esses = [np.min(v) for k, v in stats.items() if k.startswith("ess/")]
    return {"rhat": float(np.max(rhats)), "ess": float(np.min(esses))}


def so_far(problem: Problem, draws: list[np.ndarray], *, walkers: bool = False) -> dict[str, float]:
    """R-hat and effective draws of the flat vector, from pieces (step, chain, size)."""
    z = np.swapaxes(np.concatenate(draws), 0, 1)
    if z.shape[1] < 4:
        return {}
    return worst(diagnose({"z": z}, ["z"], walkers=walkers)[0])


def check_until(until: Mapping[str, float] | None) -> None:
    """Raises TypeError for a goal that chains do not have."""
    for name in until or {}:
        refuse_unknown("until", name, ["rhat", "ess"])


def reached(stats: Mapping[str, Any], until: Mapping[str, float]) -> bool:
    """Whether chains are at `until`, a dictionary of `rhat` and `ess`."""
    now = worst(stats)
    return now["rhat"] <= until.get("rhat", np.inf) and now["ess"] >= until.get("ess", 0.0)
