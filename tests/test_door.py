"""The front doors: few parameters, old keywords that say where they went, one result for all."""

import inspect
import sys
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import brutax
from brutax.catalog import StoreError, schema
from brutax.catalog.schema import COLUMNS
from brutax.cli.app import COMMANDS, main
from brutax.compat.brutus.keywords import make_priors
from brutax.fitting import DustMapAv, FitOptions, ModelPrior, Output, fit_catalog
from brutax.fitting.fit import MOVED
from brutax.fitting.prepare import model_log_prior
from brutax.fitting.rows import VALUES
from brutax.priors import AbstractAvPrior, KroupaIMF, TruncatedNormalAv, UniformAv, UniformRv
from brutax.utils import as_float

QUIET = Output(verbose=False)
ONE_ROUND = FitOptions(effort="low", draws=250)


class ExponentialAv(AbstractAvPrior):
    """A prior of A_V of one's own: exponential between two bounds."""

    scale: Array = eqx.field(converter=as_float)
    low: Array = eqx.field(converter=as_float, default=0.0)
    high: Array = eqx.field(converter=as_float, default=20.0)

    def log_prob(self, point):
        inside = (point.av >= self.low) & (point.av <= self.high)
        norm = jnp.log(jnp.exp(-self.low / self.scale) - jnp.exp(-self.high / self.scale))
        value = -point.av / self.scale - jnp.log(self.scale) - norm
        return jnp.where(inside, value, -jnp.inf)

    def moments(self, dist):
        return jnp.zeros_like(dist) + self.scale, jnp.zeros_like(dist)


@pytest.fixture(scope="module")
def some(small_stars):
    return small_stars.select(np.array([0, 1, 2, 6, 9]))


@pytest.fixture(scope="module")
def result(small_grid, some):
    return fit_catalog(some, small_grid, ONE_ROUND, output=QUIET)


@pytest.mark.parametrize("door", [brutax.fit, brutax.read_stars, brutax.load, fit_catalog])
def test_doors_have_few_parameters(door):
    named = [p for p in inspect.signature(door).parameters.values() if p.kind != p.VAR_KEYWORD]
    assert len(named) <= 12


@pytest.mark.parametrize("old", sorted(MOVED))
def test_old_keywords_name_the_new_place(old, small_grid, some):
    with pytest.raises(TypeError, match=rf"no keyword '{old}': write "):
        brutax.fit(some, small_grid, **{old: 1})


def test_unknown_keywords_are_refused(small_grid, some):
    with pytest.raises(TypeError, match=r"'error_flor'; did you mean error_floor\?"):
        brutax.fit(some, small_grid, error_flor=0.02)
    with pytest.raises(TypeError, match="read already"):
        brutax.fit(some, small_grid, error_floor=0.02)


def test_priors_in_all_forms():
    assert brutax.Priors().av.high == 20.0 and brutax.Priors(av="flat").av.high == 20.0
    assert brutax.Priors(av=(0, 3)).av.high == 3.0
    assert isinstance(brutax.Priors(rv="flat").rv, UniformRv)
    assert brutax.Priors().rv.mean == np.float32(3.32)
    own = ExponentialAv(0.5)
    assert brutax.Priors(av=own).av is own
    imf = KroupaIMF(alpha_high=2.7)
    assert brutax.Priors(models=imf).models.imf is imf
    for wrong in ({"av": 3.0}, {"av": "wide"}, {"rv": 3.1}, {"stars": 1}, {"models": "Kroupa"}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            brutax.Priors(**wrong)
    for wrong in ({"av": (3, 0)}, {"av": (-1, 3)}, {"rv": (1, 2, 3)}, {"av": (0, np.inf)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            brutax.Priors(**wrong)


def test_keywords_of_brutus_are_the_same_priors():
    ours = brutax.Priors(av=TruncatedNormalAv(1.0, 0.5, 0.0, 6.0), rv=(2.0, 5.0))
    theirs = make_priors(avlim=(0.0, 6.0), av_gauss=(1.0, 0.5), rvlim=(2.0, 5.0), rv_gauss=None)
    assert eqx.tree_equal(ours, theirs)
    assert eqx.tree_equal(brutax.Priors(), make_priors())


def test_both_doors_call_one_fit(small_grid, some, result):
    same = brutax.fit(some, small_grid, effort="low", draws=250, progress=False)
    other = brutax.BruteForce(small_grid).fit_catalog(some, ONE_ROUND, output=QUIET)
    for name in result.keys():
        np.testing.assert_array_equal(same[name], result[name], err_msg=name)
        np.testing.assert_array_equal(other[name], result[name], err_msg=name)


def test_a_prior_of_ones_own_is_one_class(small_grid, some):
    """Evidences differ from those under a flat prior as importance weights of its draws say."""
    flat = fit_catalog(some, small_grid, ONE_ROUND, brutax.Priors(av=(0, 6)), QUIET)
    own = ExponentialAv(0.5, 0.0, 6.0)
    found = fit_catalog(some, small_grid, ONE_ROUND, brutax.Priors(av=own), QUIET)
    av = np.asarray(flat["av_samples"], float)
    density = np.exp(-av / 0.5) / (0.5 * (1 - np.exp(-12.0))) * 6.0
    gain = np.log(density.mean(axis=1))
    error = density.std(axis=1) / density.mean(axis=1) / np.sqrt(av.shape[1])
    well = error < 0.1
    assert well.sum() >= 3
    difference = found["obj_log_evid"] - flat["obj_log_evid"]
    assert np.all(np.abs(difference - gain)[well] < 5 * error[well] + 0.02)
    assert np.all(found["obj_ess"] > 100)


def test_a_function_that_fails_is_not_hidden(small_grid, some):
    """Neither a callback nor a gradient of zero: the error of the function itself."""

    def broken(dists, coord, labels=None):
        if len(dists) == 3:  # what it is tried on
            return -dists
        raise KeyError("no such label")

    with pytest.raises(Exception, match="no such label|KeyError"):
        priors = brutax.Priors(stars=broken)
        fit_catalog(some, small_grid, ONE_ROUND, priors, QUIET)


def test_results_are_indexed_by_stars_and_by_names(result, some):
    one = result[2]
    assert len(one) == 1 and one["dist_samples"].shape == (250,)
    np.testing.assert_array_equal(one["dist_samples"], result["dist_samples"][2])
    near = result[result["summary_mean"][:, 0] > 0]
    assert len(near) == len(result) and len(result[np.array([True] + [False] * 4)]) == 1
    assert len(result[1:3]) == 2 and len(result[[4, 0]]) == 2
    name = some.source_id[3]
    np.testing.assert_array_equal(result.star(name)["av_samples"], result["av_samples"][3])
    with pytest.raises(KeyError, match="0 stars"):
        result.star(12)
    assert [len(star) for star in result] == [1] * len(result)
    assert "dist_samples" in result and "samps_dist" in result.keys()
    with pytest.raises(IndexError):
        result[17]


def test_several_files_are_one_result(small_grid, some, result, tmp_path):
    for k, rows in enumerate(([0, 1], [2, 3, 4])):
        output = Output(tmp_path / f"part{k}.h5", verbose=False)
        fit_catalog(some.select(np.array(rows)), small_grid, ONE_ROUND, output=output)
    for where in (tmp_path, str(tmp_path / "part*.h5"), sorted(tmp_path.glob("*.h5"))):
        joined = brutax.load(where)
        for name in result.keys():
            np.testing.assert_array_equal(joined[name], result[name], err_msg=name)
    none = FitOptions(effort="low", draws=0)
    other = Output(tmp_path / "z.h5", verbose=False)
    fit_catalog(some, small_grid, none, output=other)
    with pytest.raises(StoreError, match=r"z\.h5 does not go with"):
        brutax.load(tmp_path)
    with pytest.raises(StoreError, match="no posterior file"):
        brutax.load(tmp_path / "none*.h5")


def test_one_table_describes_the_file(result):
    assert set(VALUES) == {column.name for column in COLUMNS}
    assert {column.name for column in COLUMNS} <= set(result.keys())
    page = Path(__file__).parents[1] / "docs" / "posterior-file.md"
    assert schema.markdown() in page.read_text()
    table = result.table()
    for column in COLUMNS:
        if column.table:
            assert column.table in table.colnames


def test_models_are_weighted_by_a_mass_function(small_grid, some):
    steep = brutax.Priors(models=KroupaIMF(alpha_high=4.0))
    mass = model_log_prior(small_grid, steep.models)
    plain = model_log_prior(small_grid, ModelPrior())
    mini = small_grid.label_table["mini"]
    known = np.isfinite(mass) & np.isfinite(plain) & (mini > 0.5)
    slope = np.polyfit(np.log(mini[known]), (mass - plain)[known], 1)[0]
    assert abs(slope + 1.7) < 0.05


def test_a_dust_map_is_a_prior(some):
    class Flat:
        def query(self, coord):
            return np.array([0.1, 1.0, 10.0]), np.full(3, 0.7), np.full(3, 0.02)

    with pytest.raises(ValueError, match="no method query"):
        DustMapAv(object())
    with pytest.raises(ValueError, match="floor"):
        DustMapAv(Flat(), floor=-1.0)
    own = Flat()
    priors = brutax.Priors(av=DustMapAv(own, floor=0.1))
    assert eqx.tree_equal(priors, make_priors(dustfile=own, dust_floor=0.1))
    first, all_stars = priors.av.per_star(some.coords[:3])
    mean, inverse_std = first.moments(jnp.asarray([0.2, 1.0, 5.0]))
    np.testing.assert_allclose(mean, 0.7, rtol=1e-6)
    np.testing.assert_allclose(inverse_std, 1 / np.hypot(0.02, 0.1), rtol=1e-6)
    assert all_stars.low.shape == (3,)
    assert UniformAv().low == 0.0


COMMAND = '''
"""`brutax count`: how many stars a table holds."""

from brutax.catalog import read_stars

NAME = "count"
HELP = "how many stars a table holds"
EXAMPLE = "brutax count stars.csv"


def add_arguments(parser):
    parser.add_argument("stars")


def run(args):
    print(f"{len(read_stars(args.stars))} stars")
'''


def test_a_command_is_one_file_and_one_export(tmp_path, monkeypatch, capsys):
    (tmp_path / "count_command.py").write_text(COMMAND)
    (tmp_path / "stars.csv").write_text("PS_g,PS_g_err,PS_r,PS_r_err\n15,0.1,14,0.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import count_command  # pyright: ignore[reportMissingImports]

    commands = (*COMMANDS, count_command)
    assert main(["count", str(tmp_path / "stars.csv"), "-q"], commands) == 0
    assert capsys.readouterr().out == "1 stars\n"
    sys.modules.pop("count_command")


OLD_PATHS = {
    "analysis": "BruteForce photometric_offsets los_clouds_loglike_samples",
    "analysis.individual": "BruteForce",
    "analysis.populations": "isochrone_population_loglike marginalize_isochrone_grid",
    "analysis.offsets": "photometric_offsets PhotometricOffsetsConfig",
    "analysis.los_dust": "los_clouds_priortransform kernel_gauss kernel_lorentz kernel_tophat",
    "core": "EEPTracks StarGrid FastNNPredictor _get_seds",
    "core.individual": "EEPTracks StarEvolTrack StarGrid",
    "core.grid_generation": "GridGenerator",
    "core.neural_nets": "FastNN FastNNPredictor",
    "core.populations": "Isochrone StellarPop",
    "core.sed_utils": "_get_seds get_seds",
    "dust.extinction": "lb2pix",
    "dust.maps": "DustMap Bayestar",
    "priors.astrometric": "logp_parallax convert_parallax_to_scale",
    "priors.extinction": "logp_extinction",
    "priors.galactic": "logp_galactic_structure logn_disk",
    "priors.stellar": "logp_imf logp_ps1_luminosity_function",
    "plotting.offsets": "photometric_offsets photometric_offsets_2d",
    "data.download": "fetch_grids fetch_isos",
    "data.filters": "FILTERS gaia sdss ps tmass",
    "data.loader": "load_models load_offsets find_nn_file",
    "utils.math": "inverse3 isPSD truncnorm_logpdf galactic_to_galactocentric_cyl",
    "utils.photometry": "magnitude inv_magnitude phot_loglike",
    "utils.sampling": "quantile draw_sar sample_multivariate_normal",
}


@pytest.mark.parametrize("path", OLD_PATHS)
def test_import_paths_of_brutus(path):
    __import__(f"brutax.{path}")
    module = sys.modules[f"brutax.{path}"]
    for name in OLD_PATHS[path].split():
        assert hasattr(module, name), f"brutax.{path} has no {name}"
