"""Posteriors whose answers are known, for the tests of `infer`."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from brutax import infer

DATA = np.array([0.3, 1.1, 0.4, 0.9, 0.6], np.float32)


def gaussian(params, data):
    """Five measurements of a + b, of deviation 0.5."""
    model = params["a"] + params["b"]
    return jnp.sum(-0.5 * ((data - model) / 0.5) ** 2 - jnp.log(0.5 * jnp.sqrt(2 * jnp.pi)))


def gaussian_problem(scale=1.0):
    prior = {"a": dist.Normal(0.0, 1.0), "b": dist.Normal(0.5, 2.0), "c": lambda p: 2.0 * p["a"]}
    return infer.Problem(prior, gaussian, scale * DATA)


def exact():
    """ln Z, and mean and deviation of a: x = A (a, b) + noise is linear and Gaussian."""
    design = np.ones((5, 2))
    prior_cov, prior_mean = np.diag([1.0, 4.0]), np.array([0.0, 0.5])
    cov = design @ prior_cov @ design.T + 0.25 * np.eye(5)
    resid = DATA - design @ prior_mean
    logz = -0.5 * (resid @ np.linalg.solve(cov, resid) + np.linalg.slogdet(2 * np.pi * cov)[1])
    gain = prior_cov @ design.T @ np.linalg.inv(cov)
    mean = prior_mean + gain @ resid
    post = prior_cov - gain @ design @ prior_cov
    return logz, mean[0], np.sqrt(post[0, 0])


def same(a, b):
    assert a.logz == b.logz or np.isnan(a.logz)
    for name in a.samples:
        np.testing.assert_array_equal(a.samples[name], b.samples[name])
    np.testing.assert_array_equal(a.weights, b.weights)
