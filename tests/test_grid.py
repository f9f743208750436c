"""StarGrid: one bookkeeping for every form of input, and interpolation on a lattice with holes."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brutax.data import GridData, GridError, grid_hash, load_models
from brutax.models import DEMO_BANDS, StarGrid, demo_grid
from brutax.models.grid.demo import demo_star
from brutax.models.grid.lattice import build_lattice
from brutax.models.grid.star_grid import read_once

X64 = jax.config.read("jax_enable_x64")
BANDS = ("PS_g", "PS_r", "2MASS_J")
INPUTS = ["mini", "eep", "feh"]
PREDICTED = ["loga", "logl", "logt", "logg", "agewt"]


@pytest.fixture(scope="module")
def grid():
    return demo_grid(BANDS, 7, 9, 5)


@pytest.fixture(scope="module")
def linear():
    """A lattice whose coefficients and labels are multilinear, so interpolation is exact."""
    nodes = ([0.8, 1.0, 1.3], [300.0, 310.0, 330.0, 400.0], [-0.5, 0.0, 0.2])
    mini, eep, feh = (x.ravel() for x in np.meshgrid(*nodes, indexing="ij"))
    return linear_grid(mini, eep, feh)


def linear_mag(mini, eep, feh):
    return 10.0 + 2.0 * mini - 0.01 * eep + 0.3 * mini * feh


def linear_grid(mini, eep, feh, keep=slice(None)):
    mag = np.stack([linear_mag(mini, eep, feh), mini * feh], axis=-1)
    red, dred = np.stack([1.0 + 0.1 * feh, mini], axis=-1), np.stack([0.1 * mini, feh], axis=-1)
    labels = {"mini": mini, "eep": eep, "feh": feh, "loga": 9.0 + mini * feh - 0.001 * eep}
    tables = (x[keep] for x in (mag, red, dred))
    columns = {k: v[keep] for k, v in labels.items()}
    return StarGrid(GridData(*tables, columns, ("mini", "eep", "feh"), ("a", "b")))


# bookkeeping


def forms(grid):
    """The same grid in every documented form."""
    models, labels = grid.models, grid.labels
    mask = np.array(
        [tuple(name in INPUTS for name in labels.dtype.names)],
        dtype=[(name, bool) for name in labels.dtype.names],
    )
    table = np.zeros(len(grid), [(name, "<f4", (3,)) for name in BANDS])
    for j, name in enumerate(BANDS):
        table[name] = models[:, j]
    return {
        "combined": StarGrid(models, labels, filters=BANDS),
        "structured mask": StarGrid(models, labels, mask, filters=BANDS),
        "dict mask": StarGrid(models, labels, {n: n in INPUTS for n in PREDICTED + INPUTS}, BANDS),
        "partial mask": StarGrid(models, labels, dict.fromkeys(INPUTS, True), BANDS),
        "split": StarGrid(models, labels[INPUTS], labels[PREDICTED], filters=BANDS),
        "combined and params": StarGrid(models, labels, labels[PREDICTED], filters=BANDS),
        "other order": StarGrid(models, labels[["feh", "agewt", "eep", "mini", *PREDICTED[:4]]],
                                filters=BANDS),
        "dict of columns": StarGrid(models, dict(grid.label_table), filters=BANDS),
        "flat": StarGrid(models.reshape(len(grid), -1), labels, filters=BANDS),
        "structured": StarGrid(table, labels),
        "dict": StarGrid({"mag_coeffs": table, "labels": labels[INPUTS],
                          "parameters": labels[PREDICTED]}),
        "data": StarGrid(grid.to_data()),
    }  # fmt: skip


def test_every_form_gives_the_same_grid(grid):
    for name, other in forms(grid).items():
        assert other.axes == ("mini", "eep", "feh"), name
        assert other.bands == BANDS, name
        assert set(other.param_names) == set(PREDICTED), name
        assert other.labels_mask == {n: n in INPUTS for n in INPUTS + PREDICTED}, name
        assert other.hash == grid.hash, name
        for label in INPUTS + PREDICTED:
            np.testing.assert_array_equal(other.labels[label], grid.label_table[label], name)


def test_load_models_and_read_agree(tmp_path, grid):
    for layout in ("brutus", "plain"):
        path = grid.write(tmp_path / f"{layout}.h5", layout)
        loaded, read = StarGrid(*load_models(path), filters=BANDS), StarGrid.read(path)
        assert loaded.axes == read.axes == grid.axes
        assert loaded.hash == read.hash == grid.hash
        assert read.band_system == ("AB",) * 3 and "NOT for science" in read.attrs["provenance"]


def test_grid_of_absolute_magnitude_and_metallicity(grid):
    models = grid.models[:6]
    labels = np.zeros(6, [("Mr", float), ("feh", float)])
    labels["Mr"], labels["feh"] = [4, 5, 6, 4, 5, 6], [-1, -1, -1, 0, 0, 0]
    bayestar = StarGrid(models, labels)
    assert bayestar.axes == ("Mr", "feh") and bayestar.params is None
    assert bayestar.get_predictions(Mr=4.5, feh=-0.5) == {"Mr": 4.5, "feh": -0.5}
    both = {"mini": labels["Mr"], "feh": labels["feh"], "Mr": labels["Mr"]}
    assert StarGrid(models, both).axes == ("mini", "feh")  # then Mr is predicted


def test_attributes_of_brutus(grid):
    assert (grid.nmodels, grid.nfilters, len(grid)) == (182, 3, 182)
    assert grid.models.shape == (182, 3, 3) and grid.models.dtype == np.float32
    assert grid.label_names == (*INPUTS, *PREDICTED) and grid.param_names == tuple(PREDICTED)
    assert grid.params.dtype.names == tuple(PREDICTED)
    assert list(grid.grid_axes) == INPUTS and grid.grid_axes["eep"].size == 9
    assert repr(grid) == "StarGrid(182 models on (mini, eep, feh), bands PS_g, PS_r, 2MASS_J)"
    assert StarGrid(grid.models, grid.labels).filters == ("filter_0", "filter_1", "filter_2")


def test_it_is_a_frozen_pytree(grid):
    leaves = jax.tree.leaves(grid)
    assert len(leaves) == 3 + 8 and all(isinstance(x, np.ndarray) for x in leaves)
    assert grid.mag.dtype == np.float32 and grid.label_table["loga"].dtype == np.float64
    with pytest.raises(AttributeError):
        grid.mag = grid.mag + 1
    first = jax.tree.map(lambda x: x[:4], grid)
    assert len(first) == 4 and first.label_names == grid.label_names
    assert first.hash == grid.select(rows=slice(4)).hash != grid.hash
    total = eqx.filter_jit(lambda g: jnp.sum(g.mag))(grid)
    np.testing.assert_allclose(total, grid.mag.sum(dtype=float), rtol=1e-5)


def test_provenance_and_hash_do_not_recompile(grid):
    assert grid.hash == grid.hash and len(grid.grid_axes) == 3
    other = StarGrid(grid.to_data()._replace(attrs={"band_system": ("AB",) * 3, "x": 1}))
    assert jax.tree.structure(grid) == jax.tree.structure(other)


def test_double_precision_is_kept(linear):
    assert linear.mag.dtype == np.float64
    single = StarGrid(linear.models.astype(np.float32), linear.labels)
    assert single.mag.dtype == np.float32


def test_select(grid):
    part = grid.select(bands=["2MASS_J", "PS_g"], rows=grid.label_table["feh"] == 0.5)
    assert part.bands == ("2MASS_J", "PS_g") and part.band_system == ("AB", "AB")
    rows = grid.label_table["feh"] == 0.5
    np.testing.assert_array_equal(part.mag, grid.mag[rows][:, [2, 0]])
    assert part.hash == grid_hash(part)
    with pytest.raises(GridError, match="'PS_gg' .nearest: PS_g"):
        grid.select(bands=["PS_gg"])


def bad_inputs():
    labels = np.zeros(4, [("mini", float), ("feh", float)])
    models = np.zeros((4, 2, 3), np.float32)
    broken = models.copy()
    broken[1, 0, 2] = broken[3, 1, 0] = np.nan
    nan_axis = labels.copy()
    nan_axis["feh"][2] = np.nan
    unknown = np.zeros(4, [("colour", float)])
    return [
        ((np.zeros((4, 2)), labels), r"models are \(4, 2\)"),
        ((np.zeros((4, 2, 2)), labels), r"models are \(4, 2, 2\)"),
        ((models[:3], labels), r"label 'mini' is \(4,\) for 3 models"),
        ((models, np.zeros((4, 2))), "array without names"),
        ((models,), "models need labels"),
        ((models[:0], labels[:0]), "the grid is empty"),
        ((broken, labels), "2 of 4 models are not finite.*first is row 1.*drop them"),
        ((models, nan_axis), "1 of 4 models are not finite"),
        ((models, labels, None, ["a"]), "1 filters for models of 2 bands"),
        ((models, labels, None, ["a", "a"]), "listed twice"),
        ((models, unknown), "none of the labels colour .* pass a mask"),
        ((models, labels, {"mini": False}), "False everywhere"),
        ((models, labels, {"mini": True, "age": False}), "mask names age"),
        ((models, labels, labels), "no label is left"),
        (({"labels": labels},), "needs 'mag_coeffs'"),
    ]


@pytest.mark.parametrize("args, message", bad_inputs())
def test_bad_input(args, message):
    with pytest.raises(GridError, match=message):
        StarGrid(*args)


# between the models


def test_nodes_are_reproduced_exactly(grid):
    labels = grid.labels
    sed, params, rest = grid.get_seds(*(labels[name] for name in INPUTS))
    np.testing.assert_array_equal(sed, grid.mag)
    for name in PREDICTED:
        np.testing.assert_array_equal(params[name], labels[name])
    assert rest == {}


def test_linear_between_nodes(linear, rng):
    mini, eep, feh = rng.uniform([0.8, 300, -0.5], [1.3, 400, 0.2], (50, 3)).T
    sed, params, _ = linear.get_seds(mini, eep, feh)
    np.testing.assert_allclose(sed[:, 0], linear_mag(mini, eep, feh), rtol=1e-13)
    np.testing.assert_allclose(params["loga"], 9.0 + mini * feh - 0.001 * eep, rtol=1e-13)
    one, single, _ = linear.get_seds(mini[3], eep[3], feh[3])
    np.testing.assert_array_equal(one, sed[3])
    assert one.shape == (2,) and np.shape(single["loga"]) == ()
    assert single["loga"] == linear.get_predictions(mini[3], eep[3], feh[3])["loga"]


def test_dust_and_distance(linear):
    mini, eep, feh, av, rv = 1.1, 305.0, 0.1, 0.8, 2.9
    sed, _, _ = linear.get_seds(mini, eep, feh, av=av, rv=rv, dist=250.0)
    expected = linear_mag(mini, eep, feh) + av * (1 + 0.1 * feh + rv * 0.1 * mini)
    np.testing.assert_allclose(sed[0], expected + 5 * np.log10(0.25), rtol=1e-13)
    flux, params, rest = linear.get_seds(
        mini, eep, feh, av=av, rv=rv, dist=250.0, return_flux=True, return_dict=False
    )
    np.testing.assert_allclose(flux, 10 ** (-0.4 * sed), rtol=1e-12)
    assert params.shape == (4,) and rest.shape == (0,)
    many, params, _ = linear.get_seds(
        mini, eep, feh, av=np.array([0.0, av]), rv=rv, dist=250.0, return_predictions=False
    )
    np.testing.assert_allclose(many[1], sed, rtol=1e-15)
    assert params is None
    with pytest.raises(ValueError, match="dist must be positive"):
        linear.get_seds(mini, eep, feh, dist=0.0)


@pytest.mark.parametrize("point, axis", [((2.0, 305, 0), "mini"), ((1.0, 299, 0), "eep")])
def test_outside_is_refused(linear, point, axis):
    with pytest.raises(ValueError, match=rf"{axis} = .* is outside the grid, .* to "):
        linear.get_seds(*point)
    sed, params, _ = linear.get_seds(*point, outside="nan")
    assert np.isnan(sed).all() and np.isnan(params["loga"]) and params["mini"] == point[0]
    both = linear.get_predictions(np.array([1.0, point[0]]), [305.0, point[1]], 0.0, outside="nan")
    assert np.isfinite(both["loga"][0]) and np.isnan(both["loga"][1])


def test_round_off_at_the_edge_is_inside(linear):
    edge = np.nextafter(1.3, 2.0)
    np.testing.assert_allclose(linear.get_seds(edge, 305.0, 0.0)[0][0], linear_mag(1.3, 305, 0))


def test_nan_is_outside(linear):
    with pytest.raises(ValueError, match="mini = nan is outside"):
        linear.get_predictions(np.nan, 305.0, 0.0)


def test_holes(linear):
    """One corner of a cell is missing: near it there is no answer, far from it the rest counts."""
    labels = linear.labels
    hole = (labels["mini"] == 1.0) & (labels["eep"] == 300) & (labels["feh"] == 0.0)
    assert hole.sum() == 1
    holey = linear.select(rows=~hole)
    with pytest.raises(ValueError, match="too few models around 1 of 1 points"):
        holey.get_seds(1.01, 301.0, 0.01)
    assert np.isnan(holey.get_seds(1.01, 301.0, 0.01, outside="nan")[0]).all()
    with pytest.warns(UserWarning, match="1 of 2 points lie next to missing models"):
        sed = holey.get_seds(np.array([1.2, 1.1]), np.array([309.0, 320.0]), 0.15)[0]
    np.testing.assert_allclose(sed[1, 0], linear_mag(1.1, 320, 0.15))  # another cell
    # the weights of the seven others, made to sum to one
    t, u, v = 2.0 / 3.0, 0.9, 0.75
    w = (1 - t) * (1 - u) * (1 - v)
    whole = linear_mag(1.2, 309.0, 0.15)
    np.testing.assert_allclose(sed[0, 0], (whole - w * linear_mag(1.0, 300, 0.0)) / (1 - w))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        holey.get_seds(1.0, 310.0, 0.0)  # at another node: nothing is missing
    with pytest.raises(ValueError, match="too few"):
        holey.get_seds(1.0, 300.0, 0.0)


def test_a_missing_label_does_not_spread(grid):
    data = grid.to_data()
    loga = data.labels["loga"].copy()
    loga[1:] = np.nan
    other = StarGrid(data._replace(labels={**data.labels, "loga": loga}))
    first = [data.labels[name][0] for name in INPUTS]
    assert other.get_predictions(*first)["loga"] == loga[0]


def test_queries_by_name(linear):
    with pytest.raises(ValueError, match="eep is needed: the grid has 4 values"):
        linear.get_seds(mini=1.0, feh=0.0)
    with pytest.raises(TypeError, match="'colour' is neither"):
        linear.get_seds(1.0, 305.0, 0.0, colour=1.0)
    with pytest.raises(TypeError, match="'colour' is neither"):
        linear.get_predictions(1.0, 305.0, 0.0, colour=1.0)
    with pytest.raises(ValueError, match="no axis smf"):
        linear.get_predictions(1.0, 305.0, 0.0, smf=0.5)
    with pytest.raises(ValueError, match="outside is 'clamp'"):
        linear.get_predictions(1.0, 305.0, 0.0, outside="clamp")
    with pytest.raises(ValueError, match="multilinear"):
        linear.get_predictions(1.0, 305.0, 0.0, use_multilinear=False)
    # scripts pass the solar values of axes that load_models leaves out
    a = linear.get_predictions(1.0, 305.0, 0.0, afe=0.0, smf=0.0)
    assert a == linear.get_predictions(1.0, 305.0, 0.0)


def test_axis_of_one_value(linear):
    labels = {**linear.label_table, "afe": np.full(len(linear), 0.2)}
    grid = StarGrid(linear.models, labels)
    assert grid.axes == ("mini", "eep", "feh", "afe")
    assert grid.get_predictions(1.0, 305.0, 0.0)["afe"] == 0.2
    with pytest.raises(ValueError, match="afe = 0 is outside the grid, 0.2 to 0.2"):
        grid.get_predictions(1.0, 305.0, 0.0, 0.0)


def test_jax_queries_are_differentiable(linear):
    points = jnp.asarray([[1.1, 305.0, 0.1], [0.9, 350.0, -0.2], [9.0, 350.0, 0.0]])

    def mag(point):
        return linear.get_seds(*point, av=0.5)[0]

    sed = jax.jit(jax.vmap(mag))(points)
    expected = linear.get_seds(*np.asarray(points, float).T, av=0.5, outside="nan")[0]
    assert isinstance(sed, jax.Array)
    np.testing.assert_allclose(sed, expected, rtol=1e-12 if X64 else 3e-6)
    slope = jax.jacfwd(mag)(points[1])[0]
    np.testing.assert_allclose(
        slope, [2 + 0.3 * -0.2 + 0.5 * 0.33, -0.01, 0.27 + 0.05], rtol=1e-10 if X64 else 1e-3
    )
    np.testing.assert_allclose(slope, jax.jacrev(mag)(points[1])[0], rtol=1e-10 if X64 else 1e-3)


def test_lattice_merges_round_off_and_keeps_the_first_of_duplicates():
    lattice = build_lattice([np.array([0.3, 0.1 + 0.2, 1.0, 1.0]), np.array([0.0, 1.0, 0.0, 0.0])])
    assert [len(x) for x in lattice.nodes] == [2, 2]
    np.testing.assert_array_equal(lattice.keys, [0, 1, 2])
    np.testing.assert_array_equal(lattice.rows, [0, 1, 2])


def test_real_grid(shared):
    grid = StarGrid.read(shared / "models" / "mist_small.h5", bands=["PS_g", "2MASS_J"])
    assert len(grid) == 25486 and grid.band_system == ("AB", "Vega")
    assert grid.axes == ("mini", "eep", "feh", "afe", "smf")
    assert [x.size for x in grid.grid_axes.values()] == [28, 77, 19, 1, 1]
    sed, params, _ = grid.get_seds(1.02, 550.0, -0.375)
    np.testing.assert_array_equal(sed, np.float32([10.387085, 7.7734375]))  # as brutus 1.2.0
    assert params["loga"] == 9.895278930664062
    between = grid.get_seds(1.03, 552.0, -0.36)[0]
    assert np.all(np.abs(between - sed) < 0.2)


# the demonstration models


def test_demo_is_deterministic_and_says_what_it_is():
    grid = demo_grid()
    assert grid.bands == DEMO_BANDS and 15_000 < len(grid) < 25_000
    assert grid.hash == demo_grid().hash
    assert "NOT for science" in grid.attrs["provenance"]
    whole = np.prod([x.size for x in grid.grid_axes.values()])
    assert len(grid) < whole and grid.label_table["loga"].max() <= 10.14  # it has holes
    with pytest.raises(ValueError, match="no demonstration band PS_q"):
        demo_grid(("PS_q",))


def test_demo_age_weight_is_the_derivative_of_the_age():
    mini, feh, step = np.array([0.5, 1.0, 1.9])[:, None], -0.3, 1e-3
    eep = np.linspace(203.0, 807.0, 40)
    age = [10 ** demo_star(mini, eep + s, feh).loga for s in (-step, step)]
    agewt = demo_star(mini, eep, feh).agewt
    np.testing.assert_allclose((age[1] - age[0]) / (2 * step), agewt, rtol=2e-5)
    assert np.all(agewt > 0)


def test_demo_stars_look_like_stars():
    sun = demo_star(1.0, 330.0, 0.0)
    assert 9.3 < sun.loga < 9.9 and abs(sun.logl) < 0.3 and abs(10**sun.logt - 5772) < 200
    assert 9.7 < demo_star(1.0, 454.0, 0.0).loga < 10.1  # leaves the main sequence at 10 Gyr
    giant = demo_star(1.0, 605.0, 0.0)
    assert giant.logl > 2 and giant.logg < 2.5 and 10**giant.logt < 5000
    grid = demo_grid()
    labels = grid.labels
    near = np.argmin(np.abs(labels["mini"] - 1) + np.abs(labels["eep"] - 330) / 50
                     + np.abs(labels["feh"]))  # fmt: skip
    mag = dict(zip(grid.bands, grid.mag[near] - 10.0))
    assert abs(mag["PS_r"] - 4.5) < 0.7  # absolute magnitude of the Sun, AB
    assert 0.2 < mag["PS_g"] - mag["PS_r"] < 0.7
    total = grid.red[0] + 3.1 * grid.dred[0]
    blue_to_red = [grid.bands.index(b) for b in ("SDSS_u", "PS_g", "PS_y", "2MASS_J", "WISE_W2")]
    assert np.all(np.diff(total[blue_to_red]) < 0) and np.all(total > 0)
    np.testing.assert_allclose(total[grid.bands.index("PS_g")], 1.2, atol=0.1)


def test_a_file_is_read_once_until_it_changes(small_grid, tmp_path):
    """Fits in a loop do not read, select and hash again."""
    path = tmp_path / "grid.h5"
    small_grid.write(path)
    first = read_once(path)
    assert read_once(path) is first
    assert read_once(str(path)) is first
    assert first.select(first.bands[:3]) is first.select(first.bands[:3])
    assert first.select(first.bands[:3]).hash != first.hash
    assert read_once(path, bands=first.bands[:2]).bands == first.bands[:2]
    small_grid.select(rows=slice(0, 500)).write(path, overwrite=True)
    assert len(read_once(path)) == 500
    labels = first.labels_to_keep()
    assert labels is first.labels_to_keep() and labels["mini"].dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        labels["mini"][0] = 1.0
