"""A problem, its runs and what comes of them in one object, with the calls of socca's fitter.

`run` forgets the results of the run before it. Everything that is kept is plain HDF5.
"""

import dataclasses
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from brutax.compat.socca.modelfile import write
from brutax.infer.compare import log_prior_power
from brutax.infer.fit import METHODS, fit
from brutax.infer.names import nearest
from brutax.infer.outputs import Table, chosen
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Problem

CALLED = {"optimizer": "map", "numpyro": "nuts"}  # methods under another name
ALIASES = {  # options under names of other methods
    "dynesty": {"n_live": "nlive", "num_live": "nlive"},
    "nautilus": {"nlive": "n_live", "num_live": "n_live", "flive": "f_live"},
    "nested": {"nlive": "num_live", "n_live": "num_live"},
    "ensemble": {"nwalkers": "num_walkers", "nsteps": "num_samples", "discard": "num_warmup"},
}
SAME_WHAT = (("smoothed", "conv", "convolved"), ("background", "bkg"))
N_REALIZATIONS = 500  # draws of which a model is the median


class Fitter:
    """Binds a `Problem` (`mod`) to data (`img`, default those of the problem).

    After `run`: `posterior`, `samples` (draw, parameter) of the free parameters in the order of
    `labels`, `weights` (sum to one), `logz` and `logz_err` (None where a method has none),
    `tau` and `tau_history` of emcee, `results` of the optimizer, `sampler` where a package has one.
    """

    def __init__(self, mod: Problem | None, img: Any = None) -> None:
        if mod is not None and not isinstance(mod, Problem):
            raise TypeError(f"mod is a brutax.infer.Problem, found {type(mod).__name__}")
        self.mod = mod if mod is None or img is None else mod.with_data(img)
        self._posterior: Posterior | None = None

    def run(
        self,
        method: str = "nautilus",
        checkpoint: Any = None,
        resume: bool | str = True,
        getzprior: bool = False,
        pinits: Any = "median",
        **options: Any,
    ) -> Posterior:
        """Runs a method of `brutax.infer.fit`; 'optimizer' is `map` and 'numpyro' `nuts`.

        `checkpoint` gets the suffix .hdf5 if it has none. `pinits`, of the optimizer, is 'median',
        'random' or values. `getzprior` also computes ln of the integral of the squared prior.
        Other options are those of the method; `key`, `save_every`, `progress` those of `fit`.
        """
        problem, self._posterior = self._problem(), None
        known = [*METHODS, *CALLED]
        if method not in known:
            raise ValueError(f"no method '{method}'{nearest(method, known)}")
        name = CALLED.get(method, method)
        options = {ALIASES.get(name, {}).get(k, k): v for k, v in options.items()}
        if method == "optimizer":
            options |= {
                "start": "prior" if isinstance(pinits, str) and pinits == "random" else pinits
            }
            limits = options.pop("options", {})
            if set(limits) - {"maxiter"}:
                raise TypeError(f"of options= only maxiter is known, found {', '.join(limits)}")
            if limits:
                options["num_steps"] = int(limits["maxiter"])
        elif not (isinstance(pinits, str) and pinits == "median"):
            raise TypeError(f"pinits is for method='optimizer', not '{method}'")
        if checkpoint is not None:
            checkpoint = Path(checkpoint)
            if checkpoint.suffix not in (".h5", ".hdf5"):
                checkpoint = checkpoint.with_name(checkpoint.name + ".hdf5")
        kept = {True: "auto", False: False}.get(resume, resume) if resume in (0, 1) else resume
        post = fit(problem, name, checkpoint=checkpoint, resume=kept, **options)
        extra: dict[str, Any] = {"called": method, "free": list(problem.prior.free)}
        if getzprior:
            extra["logz_prior"] = log_prior_power(problem)[0]
        if problem.null is not None:
            extra["logz_null"] = float(problem.null(problem.data))
        extra["components"] = list(problem.components)
        self._posterior = dataclasses.replace(post, meta=post.meta | extra)
        return self._posterior

    def _problem(self) -> Problem:
        if self.mod is None:
            raise ValueError("this was loaded without a model: load(name, mod=..., img=...)")
        return self.mod

    @property
    def posterior(self) -> Posterior:
        if self._posterior is None:
            raise ValueError("nothing has been fitted yet: call run() first")
        return self._posterior

    @property
    def method(self) -> str:
        return self.posterior.meta["called"]

    @property
    def labels(self) -> list[str]:
        return list(self._free())

    def _free(self) -> dict[str, np.ndarray]:
        names = self.posterior.meta["free"]
        post = dataclasses.replace(
            self.posterior, samples={name: self.posterior.samples[name] for name in names}
        )
        return post.columns()

    @property
    def samples(self) -> np.ndarray:
        return np.stack(list(self._free().values()), axis=1)

    @property
    def weights(self) -> np.ndarray:
        return self.posterior.weights

    @property
    def logw(self) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.log(self.weights)

    @property
    def logz(self) -> float | None:
        return self.posterior.logz if math.isfinite(self.posterior.logz) else None

    @property
    def logz_err(self) -> float | None:
        return None if self.logz is None else self.posterior.logz_err

    @property
    def logz_prior(self) -> float | None:
        return self.posterior.meta.get("logz_prior")

    @property
    def sampler(self) -> Any:
        return self.posterior.sampler

    @property
    def tau(self) -> np.ndarray | None:
        """Autocorrelation time [steps] of every free parameter; None without walkers."""
        stats = self.posterior.stats
        found = [
            np.ravel(stats[k]) for n in self.posterior.meta["free"] if (k := f"tau/{n}") in stats
        ]
        return np.concatenate(found) if found else None

    @property
    def tau_history(self) -> list[tuple[int, np.ndarray]] | None:
        stats = self.posterior.stats
        if "tau_history/steps" not in stats:
            return None
        steps = stats["tau_history/steps"]
        return [(int(n), tau) for n, tau in zip(steps, stats["tau_history/tau"], strict=True)]

    @property
    def results(self) -> OptimizeResult:
        """Of the optimizer: `x` in the parameters, `fun` = -ln of the posterior density there."""
        post = self.posterior
        if post.method not in ("map", "mle"):
            raise ValueError(f"'{self.method}' is no optimizer")
        at = int(np.argmax(post.log_likelihood + post.log_prior))
        log_like, log_prior = float(post.log_likelihood[at]), float(post.log_prior[at])
        return OptimizeResult(
            x=self.samples[at],
            fun=-(log_like + (log_prior if post.method == "map" else 0.0)),
            success=post.ok,
            message="; ".join(post.warnings) or "converged",
            log_likelihood=log_like,
            log_prior=log_prior,
            starts_agree=int(post.stats["starts_agree"]),
        )

    def parameters(self) -> dict[str, tuple[float, float, float]]:
        """Prints and returns median and distances to the 84 % and 16 % quantiles, by parameter."""
        post, out = self.posterior, {}
        single = len(post.weights) == 1
        levels = post.quantile([0.16, 0.5, 0.84])
        groups: dict[str, list[str]] = {}
        for name in post.meta["free"]:
            owner = next((c for c in post.meta["components"] if name.startswith(f"{c}_")), "")
            groups.setdefault(owner, []).append(name)
        print("\nBest-fit parameters\n" + "=" * 40)
        for owner, names in groups.items():
            if owner:
                print(f"\n{owner}\n{'-' * len(owner)}")
            short = {name: name.removeprefix(f"{owner}_") if owner else name for name in names}
            width = max(map(len, short.values()))
            for name in names:
                low, middle, high = (np.ravel(x) for x in levels[name])
                for k in range(middle.size):
                    at = f"{name}[{k}]" if levels[name].ndim > 1 else name
                    value, up, down = middle[k], high[k] - middle[k], middle[k] - low[k]
                    out[at] = (float(value), float(up), float(down))
                    label = short[name] + at.removeprefix(name)
                    errors = "" if single else f" [+{up:.4E}/-{down:.4E}]"
                    print(f"{label:<{width}} : {value:11.4E}{errors}")
        return out

    def bmc(self, null: Any = None) -> tuple[float, float, float | None, float | None]:
        """Prints and returns ln B and effective sigma against a null model, plain and deboosted.

        `null` is a log-evidence, a posterior or a fitter; by default `null(data)` of the problem.
        Deboosting needs `getzprior=True`; unlike `bayes_factor(...).log_suspiciousness`, its value
        changes with the units of the parameters.
        """
        if self.logz is None:
            raise ValueError(f"'{self.method}' has no evidence: use a nested sampler")
        null = getattr(null, "posterior", null)
        error = self.posterior.logz_err
        if isinstance(null, Posterior):
            if null.meta.get("data") != self.posterior.meta.get("data"):
                raise ValueError("the models were fitted to different data: no comparison")
            error, null = float(np.hypot(error, null.logz_err)), null.logz
        if null is None:
            null = self.posterior.meta.get("logz_null")
        if null is None or not math.isfinite(null):
            raise ValueError("no null model: Problem(..., null=...) or bmc(null=...)")
        log_b, prior = self.posterior.logz - float(null), self.logz_prior
        print("\nnull-model comparison\n" + "=" * 21)
        out: list[Any] = []
        for title, value in (
            ("", log_b),
            ("prior deboosted", None if prior is None else log_b - prior),
        ):
            if value is None:
                out += [None, None]
                continue
            sigma = math.copysign(math.sqrt(2 * abs(value)), value)
            out += [value, sigma]
            if title:
                print(f"\n{title}\n" + "=" * 21)
            print(f"ln(Bayes factor) : {value:10.3E} +- {error:.1E}")
            print(f"effective sigma  : {sigma:10.3E}")
        return out[0], out[1], out[2], out[3]

    def getmodel(
        self,
        what: Any = "all",
        component: Any = None,
        usebest: bool = True,
        img: Any = None,
        **options: Any,
    ) -> Any:
        """What the problem's `predict` makes of the posterior.

        `what` names one of its outputs, several, or 'all'; `component` restricts it to some of the
        problem's components (index, name, or a list of these). At the weighted median of every
        parameter, or with `usebest=False` the median of the outputs at the draws; of an optimizer,
        at the maximum. `img` are other data; `options` go to `predict`.
        """
        problem = self._problem()
        if img is not None:
            problem = problem.with_data(img)
        known = problem.output_names()
        asked = known if isinstance(what, str) and what == "all" else what
        several = not isinstance(asked, str)
        names = tuple(_output(one, known) for one in (asked if several else [asked]))
        if component is not None:
            component = chosen(component, problem.components, "component")
        function = problem.outputs(names, component, options)

        post, free = self.posterior, list(problem.prior.free)
        post = dataclasses.replace(post, samples={k: post.samples[k] for k in free})
        if post.method in ("map", "mle"):
            found = post.predict(function, at="best")
        elif usebest:
            found = post.predict(function, at="median")
        else:
            found = post.predict(function, n=N_REALIZATIONS, q=0.5)
        kinds = problem.describe(names, component)
        values = tuple(_with_fixed(found[name], kinds[name]) for name in names)
        alone = not several or (asked is known and len(known) == 1)
        return values[0] if alone else values

    def savemodel(
        self,
        name: Any,
        what: Any = None,
        component: Any = None,
        usebest: bool = True,
        header: Any = None,
        **options: Any,
    ) -> Path:
        """Writes outputs of `getmodel` to FITS, or to ECSV where the name ends so.

        One output carries the keyword MODEL, several are slices with NSLICES and SLICE1, ...;
        `header` (of the image fitted, with its WCS) is copied. Outputs that say what they are
        (`AbstractOutputs`) are tables with units and images with coordinates, each in an extension
        where there are several. By default the output 'smoothed' if there is one, and all
        otherwise.
        """
        path = Path(name)
        path = path if path.suffix else path.with_name(path.name + ".fits")
        problem = self._problem()
        everything = problem.output_names()
        if what is None:
            what = "smoothed" if "smoothed" in everything else "all"
        names = list(everything) if what == "all" else [what] if isinstance(what, str) else what
        names = [_output(one, everything) for one in names]
        print(f"Generating {', '.join(names)} model")
        values = dict(zip(names, self.getmodel(names, component, usebest, **options), strict=True))
        if component is not None:
            component = chosen(component, problem.components, "component")
        post = self.posterior
        kind = f"median of {'parameters' if usebest else 'models'}"
        kind = "maximum" if post.method in ("map", "mle") else kind
        meta = {
            "CREATOR": f"brutax {version('brutax')}",
            "METHOD": self.method,
            "ESTIMATE": kind,
            "COMPONEN": ",".join(component or problem.components) or "all",
            "KEY": str(post.meta["key"]),
            "DATA": str(post.meta["data"]),
        }
        write(path, values, problem.describe(names, component), meta, header)
        print(f"Saved to {path.name}")
        return path

    def corner(self, **options: Any) -> Any:
        """`brutax.plotting.corner` of the posterior."""
        from brutax.plotting import corner  # matplotlib is not loaded before it is wanted

        return corner(self.posterior, **options)

    def dump(self, name: Any) -> Path:
        """Writes the results to HDF5, whatever the suffix. The model is code and stays out."""
        self.posterior.save(name)
        return Path(name)


def load(name: Any, mod: Problem | None = None, img: Any = None) -> Fitter:
    """What `dump` wrote; nothing in the file is executed.

    Without `mod` all results are there, and `getmodel` is not. Raises ValueError where `mod` and
    `img` have other data or parameters than those fitted.
    """
    out, post = Fitter(mod, img), Posterior.load(name)
    if out.mod is not None:
        if list(out.mod.prior.free) != post.meta["free"]:
            raise ValueError(f"{name} has the parameters {', '.join(post.meta['free'])}")
        if out.mod.data_digest() != post.meta["data"]:
            raise ValueError(f"{name} is of other data than those given")
    out._posterior = post
    return out


def _output(what: str, known: Sequence[str]) -> str:
    for names in SAME_WHAT:
        if what in names and what not in known:
            what = next((name for name in names if name in known), what)
    if what not in known:
        raise ValueError(f"the model has no '{what}'{nearest(what, known)}")
    return what


def _with_fixed(value: Any, kind: Any) -> Any:
    """A table with all of its columns in order; anything else as it is."""
    if not isinstance(kind, Table):
        return value
    return {name: np.asarray({**kind.fixed, **value}[name]) for name in kind.units}


fitter = Fitter  # the name under which it is called
