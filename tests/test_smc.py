"""Tempered Monte Carlo: evidences that are known, two modes, runs that go on, many side by side."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brutax import infer

SIGMA = 0.1


def log_likelihood(params, seen):
    """Two normal modes about +-seen, of weights 0.3 and 0.7."""
    at = params["x"]
    scale = -0.5 * np.log(2 * np.pi) - np.log(SIGMA)
    modes = [
        jnp.log(w) + jnp.sum(scale - 0.5 * ((at - s * seen) / SIGMA) ** 2)
        for w, s in ((0.3, -1.0), (0.7, 1.0))
    ]
    return jnp.logaddexp(*modes)


def exact(seen):
    """Of a normal prior with deviation 2."""
    var = 4.0 + SIGMA**2
    return np.sum(-0.5 * np.log(2 * np.pi * var) - 0.5 * np.asarray(seen) ** 2 / var)


def problem(seen=(1.0, 2.0)):
    prior = {"x": dist.Normal(jnp.zeros(2), 2.0)}
    return infer.Problem(prior, log_likelihood, np.asarray(seen, np.float32))


def test_many_have_their_evidence_and_modes():
    data = np.array([[1.0, 2.0], [0.5, -1.0], [2.0, 2.0]], np.float32)
    posts = infer.fit_many(
        problem(), "smc", data=data, key=1, num_particles=500, at_once=2, num_moves=5
    )
    pulls = [(post.logz - exact(seen)) / post.logz_err for post, seen in zip(posts, data)]
    assert np.max(np.abs(pulls)) < 4 and all(post.ok for post in posts)
    for post, seen in zip(posts, data, strict=True):
        first = post.samples["x"] @ seen < 0
        assert abs(np.mean(first) - 0.3) < 0.12
        near = np.where(first[:, None], -seen, seen)
        np.testing.assert_allclose(np.std(post.samples["x"] - near, axis=0), SIGMA, rtol=0.25)


def test_errors_of_evidence_are_its_scatter():
    """Also with so few moves that particles stay near those that they are copies of."""
    seen = np.array([1.0, 2.0], np.float32)
    posts = infer.fit_many(
        problem(), "smc", data=np.tile(seen, (64, 1)), key=1, num_particles=200, num_moves=3,
        at_once=64,
    )  # fmt: skip
    off = np.array([post.logz for post in posts]) - exact(seen)
    quoted = np.sqrt(np.mean([post.logz_err**2 for post in posts]))
    assert 0.75 < np.std(off) / quoted < 1.3 and abs(np.mean(off)) < 0.1
    assert all(1 < post.stats["ancestors"] < 100 for post in posts)


@pytest.mark.slow
def test_goes_on_where_it_was_stopped(tmp_path):
    options = dict(key=3, num_particles=100, num_moves=3, chunk=1)
    whole = infer.fit(problem(), "smc", **options)
    file = tmp_path / "run"
    part = infer.fit(problem(), "smc", checkpoint=file, max_stages=2, **options)
    assert part.warnings and part.stats["stages"] == 2 and whole.ok
    again = infer.fit(problem(), "smc", checkpoint=file, **options)
    assert again.logz == whole.logz
    np.testing.assert_array_equal(again.samples["x"], whole.samples["x"])


@pytest.mark.parametrize(
    ("option", "words"),
    [({"num_particles": 7}, "num_particles"), ({"ess": 1.0}, "ess"), ({"num_moves": 0}, "least 1")],
    ids=str,
)
def test_bad_options(option, words):
    with pytest.raises(ValueError, match=words):
        infer.fit(problem(), "smc", **option)
