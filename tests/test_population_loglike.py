"""The likelihood of a cluster in brutus' call forms, against formulas written separately."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import logsumexp

from brutax.analysis import (
    apply_isochrone_mixture_model,
    compute_isochrone_cluster_loglike,
    compute_isochrone_outlier_loglike,
    generate_isochrone_population_grid,
    isochrone_population_loglike,
    marginalize_isochrone_grid,
)
from brutax.models import Isochrone, StellarPop

THETA = np.array([0.1, 9.3, 0.3, 3.2, 850.0, 0.15])
GRID = {"smf_grid": np.linspace(0.0, 1.0, 5), "eep_grid": np.linspace(210.0, 700.0, 60)}


class Toy:
    """A population in closed form: anything with `get_seds` will do."""

    def get_seds(self, feh, loga, av, rv, eep, binary_fraction, dist, mini_bound, **_):
        mini = 0.4 + 0.9 * (eep - 200.0) / 400.0 - 0.15 * np.maximum(eep - 650.0, 0.0) / 100.0
        mini = np.where(loga > 12.0, np.nan, mini)
        colour = np.array([1.4, 1.0, 0.8, 0.5])
        mag = 9.0 - 6.0 * (mini[:, None] - 0.4) * colour - 0.3 * feh + 0.1 * loga
        mag = mag + av * colour * (0.7 + 0.1 * rv) + 5.0 * np.log10(dist / 10.0)
        pair = np.where(eep <= 480.0, 2.5 * np.log10(1.0 + binary_fraction**3), 0.0)
        mag = np.where((eep > 690.0)[:, None], np.nan, mag - pair[:, None])
        return mag, {"mini": np.where(mini < mini_bound, np.nan, mini)}, {}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(7)
    grid = generate_isochrone_population_grid(Toy(), *THETA[:5], **GRID)
    lit = np.flatnonzero(np.isfinite(grid["photometry"]).all(axis=1))
    flux = grid["photometry"][rng.choice(lit, 12)]
    err = 0.02 * flux
    flux = flux + err * rng.normal(size=flux.shape)
    flux[2, 1], err[3, 0], flux[4] = np.nan, -1.0, np.nan
    mask = np.ones(flux.shape)
    mask[5, 2] = 0
    plx = 1000.0 / THETA[4] + 0.05 * rng.normal(size=12)
    plx[6] = np.nan
    return flux, err, mask, plx, np.full(12, 0.05)


def by_hand(data, dim_prior, prob=0.9, parallax=True):
    """Star by star, point by point, from the definitions (reference: brutus.md, section 7)."""
    flux, err, mask, plx, perr = data
    q, eep = GRID["smf_grid"], GRID["eep_grid"]
    dq = np.full(5, 0.25)
    points = []
    for k, ratio in enumerate(q):
        mag, first, _ = Toy().get_seds(*THETA[:4], eep, ratio, THETA[4], 0.08)
        dm = np.gradient(first["mini"])
        for j in range(eep.size):
            once = eep[j] > 480.0
            if dm[j] > 0 and np.isfinite(mag[j]).all() and (k == 0 or not once):
                points.append((10 ** (-0.4 * mag[j]), dm[j] * (dq.sum() if once else dq[k])))
    measure = np.array([p[1] for p in points])
    w = prob * (1 - THETA[5])
    seen = np.isfinite(flux) & (err > 0) & (mask > 0)
    ranges = [
        np.ptp(np.r_[(flux + 3 * err)[s, b], (flux - 3 * err)[s, b]]) for b, s in enumerate(seen.T)
    ]
    good = np.isfinite(plx) & parallax
    span = np.ptp(np.r_[(plx + 3 * perr)[good], (plx - 3 * perr)[good]]) if parallax else 1.0
    out = []
    for i in range(len(flux)):
        if not seen[i].any():
            out.append(0.0)
            continue
        s, inside = seen[i], []
        for model, _ in points:
            z = (flux[i, s] - model[s]) / err[i, s]
            z = np.r_[z, (plx[i] - 1000 / THETA[4]) / perr[i]] if good[i] else z
            if dim_prior:
                inside.append(scipy.stats.chi2.logpdf(z @ z, z.size))
            else:
                sigma = np.r_[err[i, s], perr[i]] if good[i] else err[i, s]
                inside.append(np.sum(scipy.stats.norm.logpdf(z) - np.log(sigma)))
        nu = s.sum() + good[i]
        outside = scipy.stats.chi2.logpdf(scipy.stats.chi2.isf(1e-5, nu), nu)
        if not dim_prior:
            outside = -np.sum(np.log(np.array(ranges)[s])) - (np.log(span) if good[i] else 0.0)
        mixed = np.logaddexp(np.log(w) + inside, np.log(1 - w) + outside)
        out.append(logsumexp(mixed, b=measure / measure.sum()))
    return np.array(out)


@pytest.mark.parametrize("dim_prior", [True, False])
@pytest.mark.parametrize("parallax", [True, False])
def test_likelihood_is_the_mixture_averaged_over_the_isochrone(data, dim_prior, parallax):
    flux, err, mask, plx, perr = data
    near = {"parallax": plx, "parallax_err": perr} if parallax else {}
    total, parts = isochrone_population_loglike(
        THETA, Toy(), flux, err, cluster_prob=0.9, dim_prior=dim_prior, mask=mask,
        return_components=True, **near, **GRID,
    )  # fmt: skip
    expected = by_hand(data, dim_prior, parallax=parallax)
    np.testing.assert_allclose(parts["lnl_per_object"], expected, rtol=1e-11, atol=1e-10)
    assert total == pytest.approx(expected.sum(), rel=1e-11)
    assert parts["no_photometry"].tolist() == [i == 4 for i in range(12)]
    points = parts["isochrone_grid"]["grid_info"]["n_total_points"]
    for name in ("lnl_cluster", "lnl_outlier", "lnl_mixture"):
        assert parts[name].shape == (points, 12)
    plain = isochrone_population_loglike(
        THETA, Toy(), flux, err, cluster_prob=0.9, dim_prior=dim_prior, mask=mask, **near, **GRID
    )
    assert plain == total


# what brutus 1.2.0 returns for these data (star 4 left out, which makes its likelihood -inf):
# sums over finite elements of what every function returns, and the likelihood of every star
GRID_SUMS = {
    "photometry": 0.00046579163244187395,
    "masses": 153.39737288135592,
    "smf_values": 82.5,
    "mass_jacobians": 3.5065677966101694,
    "smf_jacobians": 75.0,
}
SUMS = {  # with `dim_prior`, without
    "lnl_cluster": (-20219158192.906292, -20219032307.592537),
    "lnl_outlier": (-25959.80264080844, 104084.06000297931),
    "lnl_mixture": (-28526.643239465935, 100329.28799722705),
}
PER_STAR = {
    True: [
        -7.778862590916185, -7.378896894093688, -7.575465326724536, -8.328459072073498,
        -8.850623148096755, -7.927671289956318, -6.1485207564789865, -7.5993989685783525,
        -7.917426793672823, -7.4147699748543925, -7.7866840523429675,
    ],
    False: [
        68.3519132465398, 69.20102105590489, 56.14669337541432, 51.59991367906388,
        48.14850629489857, 73.4395209033159, 64.93593152076723, 76.9278073268082,
        56.98088185529041, 58.211917866041674, 73.73441426844634,
    ],
}  # fmt: skip


@pytest.mark.parametrize("dim_prior", [True, False])
def test_every_function_returns_what_brutus_does(data, dim_prior):
    flux, err, mask, plx, perr = (np.delete(x, 4, axis=0) for x in data)
    total, parts = isochrone_population_loglike(
        THETA,
        Toy(),
        flux,
        err,
        plx,
        perr,
        0.9,
        dim_prior,
        mask=mask,
        return_components=True,
        **GRID,
    )
    np.testing.assert_allclose(parts["lnl_per_object"], PER_STAR[dim_prior], rtol=0, atol=1e-10)
    assert total == pytest.approx(sum(PER_STAR[dim_prior]), rel=0, abs=1e-10)
    for name, expected in GRID_SUMS.items():
        assert np.nansum(parts["isochrone_grid"][name]) == pytest.approx(expected, rel=1e-13)
    for name, expected in SUMS.items():
        values = parts[name]
        total = np.sum(values[np.isfinite(values)])
        assert total == pytest.approx(expected[not dim_prior], rel=1e-12)


def test_probabilities_per_star_and_blocks_of_stars(data, monkeypatch):
    flux, err, *_ = data
    prob = np.linspace(0.1, 1.0, 12)
    _, parts = isochrone_population_loglike(
        THETA, Toy(), flux, err, cluster_prob=prob, return_components=True, **GRID
    )
    one_by_one = [
        isochrone_population_loglike(
            THETA, Toy(), flux[[i]], err[[i]], cluster_prob=prob[i], **GRID
        )
        for i in range(12)
    ]
    np.testing.assert_allclose(parts["lnl_per_object"], one_by_one, rtol=1e-12)
    monkeypatch.setattr("brutax.compat.brutus.coeval.BLOCK", 5)
    blocks = isochrone_population_loglike(THETA, Toy(), flux, err, cluster_prob=prob, **GRID)
    assert blocks == pytest.approx(parts["lnl_total"], rel=1e-12)


def test_five_parameters_have_no_field(data):
    flux, err, *_ = data
    five = isochrone_population_loglike(THETA[:5], Toy(), flux, err, **GRID)
    assert five == isochrone_population_loglike([*THETA[:5], 0.0], Toy(), flux, err, **GRID)


def test_points_without_companions_carry_all_mass_ratios():
    grid = generate_isochrone_population_grid(Toy(), *THETA[:5], **GRID)
    masses, share = grid["masses"], grid["smf_jacobians"]
    late = masses > 0.4 + 0.9 * 280.0 / 400.0 + 1e-9
    assert np.unique(masses[late]).size == late.sum()
    np.testing.assert_allclose(share[late], 1.25)
    np.testing.assert_allclose(share[~late], 0.25)
    assert (grid["mass_jacobians"] > 0).all()
    one = generate_isochrone_population_grid(
        Toy(), *THETA[:5], smf_grid=[0.0], eep_grid=GRID["eep_grid"]
    )
    assert (one["smf_jacobians"] == 1.0).all()


def test_custom_outliers(data):
    flux, err, *_ = data
    grid = generate_isochrone_population_grid(Toy(), *THETA[:5], **GRID)

    def by_mass(flux, err, stellar_params, parallax, parallax_err, mask, slope):
        return -slope * stellar_params["masses"][:, None] * np.ones(len(flux))

    out = compute_isochrone_outlier_loglike(
        flux, err, grid, outlier_model_func=by_mass, slope=2.0, mask=None
    )
    np.testing.assert_allclose(out[:, 3], -2.0 * grid["masses"])
    total = isochrone_population_loglike(
        THETA, Toy(), flux, err, outlier_model_func=by_mass, slope=2.0, **GRID
    )
    assert np.isfinite(total)
    with pytest.raises(ValueError, match="outlier model returned"):
        compute_isochrone_outlier_loglike(
            flux, err, grid, outlier_model_func=lambda *a, **k: np.zeros((2, 2))
        )
    assert compute_isochrone_outlier_loglike(flux, err).shape == (1, 12)
    looser = compute_isochrone_outlier_loglike(flux, err, p_value_cut=1e-2)
    assert (looser[0, [0, 1]] > compute_isochrone_outlier_loglike(flux, err)[0, [0, 1]]).all()


def test_mixture_and_average():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 30, 4))
    mixed = apply_isochrone_mixture_model(a, b, 0.8, 0.25)
    np.testing.assert_allclose(np.exp(mixed), 0.6 * np.exp(a) + 0.4 * np.exp(b), rtol=1e-13)
    np.testing.assert_allclose(apply_isochrone_mixture_model(a, b, 1.0, 0.0), a)
    np.testing.assert_allclose(apply_isochrone_mixture_model(a, b, 1.0, 1.0), b)
    dm, dq = rng.uniform(size=(2, 30))
    mean = np.average(np.exp(mixed), weights=dm * dq, axis=0)
    np.testing.assert_allclose(np.exp(marginalize_isochrone_grid(mixed, dm, dq)), mean, rtol=1e-12)
    mixed[::3] = np.nan  # points off the models are no part of the measure
    rest = np.arange(30) % 3 != 0
    mean = np.average(np.exp(mixed[rest]), weights=(dm * dq)[rest], axis=0)
    np.testing.assert_allclose(np.exp(marginalize_isochrone_grid(mixed, dm, dq)), mean, rtol=1e-12)
    assert (marginalize_isochrone_grid(np.full((3, 2), np.nan), dm[:3], dq[:3]) == -np.inf).all()
    with pytest.raises(ValueError, match="differ"):
        apply_isochrone_mixture_model(a, b[:5], 0.5, 0.5)


def test_pieces_are_differentiable_in_jax(data):
    flux, err, *_ = (np.delete(x, 4, axis=0) for x in data)
    grid = generate_isochrone_population_grid(Toy(), *THETA[:5], **GRID)
    lit = np.isfinite(grid["photometry"]).all(axis=1)

    def total(shift, fraction):
        scale = 10 ** (0.4 * np.median(-2.5 * np.log10(flux[0])))
        models = jnp.asarray(grid["photometry"][lit] * scale) * shift
        inside = compute_isochrone_cluster_loglike(
            jnp.asarray(flux * scale), jnp.asarray(err * scale), {"photometry": models}
        )
        outside = jnp.full_like(inside, -12.0)
        mixed = apply_isochrone_mixture_model(inside, outside, 0.9, fraction)
        dm, dq = (jnp.asarray(grid[n][lit]) for n in ("mass_jacobians", "smf_jacobians"))
        return marginalize_isochrone_grid(mixed, dm, dq).sum()

    with jax.enable_x64(True):
        at = (jnp.asarray(1.001), jnp.asarray(0.2))
        slopes = jax.grad(total, (0, 1))(*at)
        for k, step in enumerate((1e-6, 1e-5)):
            ends = [total(*(x + s * (i == k) for i, x in enumerate(at))) for s in (-step, step)]
            assert slopes[k] == pytest.approx(float(ends[1] - ends[0]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize(
    "at, value", [(5, -0.1), (5, 1.1), (4, -10.0), (4, 0.0), (1, 12.5), (0, np.nan), (3, np.inf)]
)
def test_impossible_parameters_have_no_likelihood(data, at, value):
    flux, err, *_ = data
    theta = THETA.copy()
    theta[at] = value
    total, parts = isochrone_population_loglike(
        theta, Toy(), flux, err, return_components=True, **GRID
    )
    assert total == -np.inf and (parts["lnl_per_object"] == -np.inf).all()


def test_mistakes_raise(data):
    flux, err, mask, plx, _ = data
    with pytest.raises(ValueError, match="5 or 6"):
        isochrone_population_loglike(THETA[:4], Toy(), flux, err)
    with pytest.raises(ValueError, match="star, band"):
        isochrone_population_loglike(THETA, Toy(), flux, err[:3])
    with pytest.raises(ValueError, match="mask"):
        isochrone_population_loglike(THETA, Toy(), flux, err, mask=mask[:, :2])
    with pytest.raises(ValueError, match="parallax"):
        isochrone_population_loglike(THETA, Toy(), flux, err, parallax=plx[:3], parallax_err=0.1)
    with pytest.raises(ValueError, match="cluster_prob"):
        isochrone_population_loglike(THETA, Toy(), flux, err, cluster_prob=[0.1, 0.2])
    with pytest.raises(TypeError, match="p_value_cutt"):
        isochrone_population_loglike(THETA, Toy(), flux, err, p_value_cutt=1e-3, **GRID)
    with pytest.raises(TypeError, match="sigma_clip"):  # also where theta is impossible
        isochrone_population_loglike([np.nan] * 6, Toy(), flux, err, sigma_clip=3.0, **GRID)
    with pytest.raises(ValueError, match="no star"):
        generate_isochrone_population_grid(Toy(), 0.0, 13.0, 0.1, 3.3, 500.0, **GRID)


def test_the_page_example(rng):
    """The documented call: five parameters, the isochrones inside the package."""
    pop = StellarPop(Isochrone(verbose=False), ["PS_g", "PS_r", "PS_i", "PS_z"], verbose=False)
    truth = [0.0, 9.2, 0.2, 3.3, 900.0]
    few = {"smf_grid": np.linspace(0, 1, 4), "eep_grid": np.linspace(230, 600, 80)}
    grid = generate_isochrone_population_grid(pop, *truth, **few)
    lit = np.flatnonzero(np.isfinite(grid["photometry"]).all(axis=1))
    flux = grid["photometry"][rng.choice(lit, 20)]
    err = 0.1 * flux
    there, away = (
        isochrone_population_loglike([*truth[:4], dist], pop, flux, err, cluster_prob=0.9, **few)
        for dist in (900.0, 450.0)
    )
    assert there > away + 20
    off = [0.0, 99.0, 0.2, 3.3, 900.0]
    assert isochrone_population_loglike(off, pop, flux, err, **few) == -np.inf


def test_corrections_reach_the_models(data):
    class Corrected(Toy):
        def get_seds(self, corr_params, **settings):
            mag, *rest = super().get_seds(**settings)
            return mag + corr_params[0], *rest

    flux, err, *_ = data
    plain, moved = (
        isochrone_population_loglike(
            THETA, Corrected(), flux, err, corr_params=[x, 0, 1, 0], **GRID
        )
        for x in (0.0, 0.3)
    )
    assert plain == isochrone_population_loglike(THETA, Toy(), flux, err, **GRID) != moved
