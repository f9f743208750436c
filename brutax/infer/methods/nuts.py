"""The No-U-Turn sampler of numpyro (Hoffman & Gelman 2014), chains side by side.

Every chain starts at its own draw from the prior, so that chains which end in different modes
disagree, which R-hat reports. Where gradients are dear, `start="map"` looks for the maximum first
and starts from the Gaussian about it, in whose coordinates the chains move: they need a short
warm-up and short trees, and see one mode only.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import NUTS

from brutax.infer.checkpoint import Session, pack, unpack
from brutax.infer.gaussian import Gaussian, find
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Problem

N_TRIES = 64  # prior draws per chain among which one of finite density is looked for
MIN_DRAWS = 20  # before which chains are not compared
MAP_STEPS = 200  # of each search for the maximum
MAX_RHAT, MIN_ESS = 1.01, 400.0  # Vehtari et al. (2021), arXiv:1903.08008

NEEDS_GRADIENT = True


@dataclass(frozen=True)
class Options:
    """Steps of warm-up and of sampling per chain, and the settings of numpyro's NUTS."""

    num_warmup: int = 1000
    num_samples: int = 1000  # may grow when a checkpoint is continued
    num_chains: int = 4
    target_accept: float = 0.8
    max_tree_depth: int = 10
    dense_mass: bool = False
    start: str = "prior"  # or "map": chains start about the highest maximum found
    num_starts: int = 4  # searches for it, from the best of `num_tries` prior draws
    num_tries: int = 64
    until: Any = None  # dict(rhat=1.01, ess=400): more samples until both are so for all parameters
    max_samples: int = 20_000  # of each chain, with `until`
    chunk: int = 100  # steps between visits of the host; changes no bit

    free = ("num_samples", "chunk", "until", "max_samples")  # what a continued run may change

    def __post_init__(self) -> None:
        if self.start not in ("prior", "map"):
            raise ValueError(f"start is 'prior' or 'map', found {self.start!r}")
        strange = set(self.until or ()) - {"rhat", "ess"}
        if strange:
            raise ValueError(f"until knows rhat and ess, found {', '.join(sorted(strange))}")


def _kernel(problem: Problem, options: Options, data: Any, frame: Gaussian | None) -> NUTS:
    def potential(u: Any) -> Any:
        return -problem.density(u if frame is None else frame.place(u), data).log_target

    return NUTS(
        potential_fn=potential,
        target_accept_prob=options.target_accept,
        max_tree_depth=options.max_tree_depth,
        dense_mass=options.dense_mass,
    )


def _init(key: Any, data: Any, problem: Problem, options: Options) -> Any:
    """The frame of the chains, if any, and their state."""
    key_start, key_run = jax.random.split(key)

    def target(z: Any) -> Any:
        return problem.density(z, data).log_target

    def start(key: Any) -> Any:
        draws = jax.vmap(problem.sample_real)(jax.random.split(key, N_TRIES))
        density = jax.lax.map(target, draws)
        return draws[jnp.argmax(jnp.isfinite(density))]  # the first one that is possible

    chains, frame = options.num_chains, None
    if options.start == "map":
        key_draws, key_start = jax.random.split(key_start)
        draws = jax.vmap(problem.sample_real)(jax.random.split(key_draws, options.num_tries))
        frame, _ = find(target, draws, starts=options.num_starts, steps=MAP_STEPS)
        starts = jax.random.normal(key_start, (chains, problem.prior.size), draws.dtype)
    else:
        starts = jax.vmap(start)(jax.random.split(key_start, chains))
    keys = jax.random.split(key_run, chains)
    kernel = _kernel(problem, options, data, frame)
    return frame, kernel.init(keys, options.num_warmup, starts, (), {})


def _advance(
    state: Any, n: Any, data: Any, problem: Problem, options: Options
) -> tuple[Any, dict[str, Any]]:
    """`n` steps of at most `options.chunk`."""
    frame, chains = state
    kernel = _kernel(problem, options, data, frame)
    keys = jax.random.split(jax.random.key(0), options.num_chains)
    kernel.init(keys, options.num_warmup, chains.z, (), {})  # sets up its schedule; state is ours

    def step(state: Any, i: Any) -> tuple[Any, dict[str, Any]]:
        state = jax.lax.cond(i < n, lambda s: kernel.sample(s, (), {}), lambda s: s, state)
        return state, dict(
            z=state.z if frame is None else jax.vmap(frame.place)(state.z),
            potential=state.potential_energy,
            diverging=state.diverging,
            num_steps=state.num_steps,
        )

    chains, out = jax.lax.scan(step, chains, jnp.arange(options.chunk))
    return (frame, chains), out


def run(problem: Problem, key: Any, session: Session, options: Options) -> Posterior:
    init = jax.jit(functools.partial(_init, problem=problem, options=options))
    advance = jax.jit(functools.partial(_advance, problem=problem, options=options))
    saved = session.load()
    if saved is None:
        state, draws = init(key, problem.data), {}
    else:
        state, draws = unpack(saved, jax.eval_shape(init, key, problem.data))
    total = options.num_warmup + options.num_samples
    done = int(np.asarray(state[1].i).ravel()[0])
    limit = options.num_warmup + max(options.max_samples, options.num_samples)
    if options.until:
        total = max(total, min(done, limit))
    while done < total:
        stage_end = options.num_warmup if done < options.num_warmup else total
        n = min(options.chunk, stage_end - done)
        state, out = advance(state, n, problem.data)
        if done >= options.num_warmup:
            for name, value in out.items():
                draws.setdefault(name, []).append(np.asarray(value)[:n])
        done += n
        told = _agreement(draws) if done > options.num_warmup + MIN_DRAWS else {}
        if options.until and done >= total and not _enough(told, options.until):
            total = min(total + options.chunk, limit)
        session.show(done, total, **told)
        session.tick(state, draws, done=done >= total)
    joined = {k.split("/", 1)[1]: v for k, v in pack((), draws).items()}
    return _posterior(problem, joined, replace(options, num_samples=total - options.num_warmup))


def _agreement(draws: dict[str, list[np.ndarray]]) -> dict[str, float]:
    """The largest R-hat and the smallest effective size of the components of z so far."""
    z = np.swapaxes(np.concatenate(draws["z"]), 0, 1)
    return {
        "rhat": float(np.max(split_gelman_rubin(z))),
        "ess": float(np.min(effective_sample_size(z))),
    }


def _enough(told: dict[str, float], until: dict[str, float]) -> bool:
    good = told.get("rhat", np.inf) <= until.get("rhat", np.inf)
    return good and told.get("ess", 0.0) >= until.get("ess", 0.0)


def _posterior(problem: Problem, draws: dict[str, np.ndarray], options: Options) -> Posterior:
    kept = {k: np.swapaxes(v[: options.num_samples], 0, 1) for k, v in draws.items()}
    z = kept["z"].reshape(-1, problem.prior.size)
    params, log_base, log_jacobian = jax.jit(jax.vmap(problem.prior.from_real))(jnp.asarray(z))
    log_prior = log_base + jax.vmap(problem.prior.log_factor)(params)
    log_like = -kept["potential"].reshape(-1) - np.asarray(log_prior + log_jacobian)
    samples = {name: np.asarray(value) for name, value in params.items()}
    stats: dict[str, Any] = {
        "divergences": int(np.sum(kept["diverging"])),
        "gradients": int(np.sum(kept["num_steps"])),
    }
    warnings = []
    for name in problem.prior.free:
        chains = samples[name].reshape(*kept["potential"].shape, *samples[name].shape[1:])
        stats[f"rhat/{name}"] = split_gelman_rubin(chains)
        stats[f"ess/{name}"] = effective_sample_size(chains)
        if not np.max(stats[f"rhat/{name}"]) <= MAX_RHAT:
            warnings.append(
                f"R-hat of {name} is {np.max(stats[f'rhat/{name}']):.3g}: the chains disagree"
            )
        if not np.min(stats[f"ess/{name}"]) >= MIN_ESS:
            warnings.append(
                f"{name} has {np.min(stats[f'ess/{name}']):.0f} effective draws, below "
                f"{MIN_ESS:.0f}"
            )
    if stats["divergences"]:
        warnings.append(f"{stats['divergences']} of {len(z)} transitions diverged")
    return Posterior(
        "nuts",
        samples,
        np.full(len(z), 1.0 / len(z)),
        log_like,
        np.asarray(log_prior),
        n_chains=options.num_chains,
        stats=stats,
        warnings=tuple(warnings),
    )
