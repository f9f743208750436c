"""The files that brutus users have: tracks, isochrones and networks, made small here."""

import h5py
import jax.numpy as jnp
import numpy as np
import pytest

from brutax.models import (
    EEPTracks,
    FastNN,
    FastNNPredictor,
    GridGenerator,
    Isochrone,
    StarEvolTrack,
    StellarPop,
)

MINI, EEP = np.array([0.4, 0.6, 0.8, 1.0, 1.3]), np.arange(202.0, 500.0, 6.0)
FEH = np.array([-1.0, 0.0])
BANDS = ("PS_g", "PS_r", "2MASS_J")


def star(mini, eep, feh):
    """Stars that are linear in mass, EEP and [Fe/H], but for their age."""
    loga = 10.0 - 2.5 * np.log10(mini) + 0.002 * (eep - 350.0) + 0.05 * feh
    logl = 4.0 * (mini - 1.0) + 0.001 * (eep - 202.0) - 0.1 * feh
    logt = 3.75 + 0.1 * (mini - 1.0) - 0.01 * feh
    return loga, logl, logt, 4.4 - 0.3 * (mini - 1.0), feh - 0.02


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("brutus")
    columns = ["initial_mass", "EEP", "initial_[Fe/H]", "initial_[a/Fe]", "log_age", "log_L"]
    columns += ["log_Teff", "log_g", "[Fe/H]", "star_mass", "log_R"]
    with h5py.File(folder / "tracks.h5", "w") as file:
        file["index"] = np.array([b"low", b"high"])
        for name, feh in zip(("low", "high"), FEH):
            m, e = (x.ravel() for x in np.meshgrid(MINI, EEP, indexing="ij"))
            some = ~((m == 0.6) & (e > 400.0))  # a track that ends early
            m, e = m[some], e[some]
            rows = np.zeros(m.size, dtype=[(c, float) for c in columns])
            values = (m, e, feh, 0.0, *star(m, e, feh), m, 0.0)
            for column, value in zip(columns, values):
                rows[column] = value
            file[name] = rows
    names = ["mini", "mass", "logl", "logt", "logr", "logg", "feh_surf", "afe_surf"]
    with h5py.File(folder / "iso.h5", "w") as file:
        loga = np.array([9.0, 9.5])
        file["feh"], file["afe"], file["loga"], file["eep"] = FEH, [0.0], loga, EEP
        table = np.zeros((2, 1, 2, EEP.size, len(names)))
        for i, feh in enumerate(FEH):
            for k, age in enumerate(loga):
                mini = 0.3 + 0.004 * (EEP - 202.0) + 0.1 * (9.5 - age)
                _, logl, logt, logg, surf = star(mini, EEP, feh)
                table[i, 0, k] = np.stack(
                    np.broadcast_arrays(mini, 0.99 * mini, logl, logt, 0.0, logg, surf, 0.0), axis=1
                )
        table[:, :, :, 10:13] = np.nan  # a gap, to be filled
        table[:, :, 1, 40:] = np.nan  # an end
        data = file.create_dataset("predictions", data=table)
        data.attrs["labels"] = [name.encode() for name in names]
    rng = np.random.default_rng(5)
    with h5py.File(folder / "nn.h5", "w") as file:
        for band in BANDS:
            group = file.create_group(band)
            shapes = {"w1": (16, 6), "b1": (16, 1), "w2": (12, 16), "b2": (12, 1), "w3": (1, 12)}
            for name, shape in {**shapes, "b3": (1, 1)}.items():
                group[name] = rng.normal(size=shape)
            group["xmin"] = np.array([2500.0, -1.0, -4.0, -0.2, 0.0, 2.0])
            group["xmax"] = np.array([50000.0, 5.5, 0.5, 0.6, 6.0, 5.0])
    return folder


def test_tracks_between_their_models(files):
    tracks = EEPTracks(files / "tracks.h5", verbose=False)
    assert tracks.mini_bound == pytest.approx(0.4)
    labels = np.array([[0.9, 300.0, -0.25, 0.0], [1.0, 202.0, 0.0, 0.0], [1.22, 421.0, -1.0, 0.0]])
    got = tracks.get_predictions(labels, apply_corr=False)
    want = np.stack(star(*labels[:, :3].T), axis=1)
    np.testing.assert_allclose(got[:, 1:5], want[:, 1:5], atol=2e-6)
    # the age is not linear in mass: at the nodes it is exact
    at_node = tracks.get_predictions([0.8, 300.0, 0.0, 0.0], apply_corr=False)
    assert at_node[0] == pytest.approx(star(0.8, 300.0, 0.0)[0], abs=2e-6)
    agewt = np.log(10.0) * 0.002 * 10.0 ** at_node[0]
    assert at_node[-1] == pytest.approx(agewt, rel=1e-3)


def test_beyond_tracks_and_beside_missing_ones_is_nan(files):
    tracks = EEPTracks(files / "tracks.h5", verbose=False)
    lost = [[0.3, 300.0, 0.0, 0.0], [1.0, 600.0, 0.0, 0.0], [1.0, 300.0, 0.4, 0.0]]
    lost += [[1.0, 300.0, 0.0, 0.1], [0.7, 430.0, 0.0, 0.0], [np.nan, 300.0, 0.0, 0.0]]
    assert np.isnan(tracks.get_predictions(lost)).all()
    assert np.isfinite(tracks.get_predictions([0.8, 430.0, 0.0, 5e-6])).all()


def test_isochrones_between_their_models(files):
    isochrone = Isochrone(files / "iso.h5", verbose=False)
    got = isochrone.get_predictions(feh=-0.5, loga=9.25, eep=[262.0, 268.0, 300.0, 460.0])
    assert np.isfinite(got[:3]).all() and np.isnan(got[3]).all()  # the gap is filled, the end not
    mini = 0.3 + 0.004 * (300.0 - 202.0) + 0.025
    assert got[2, 0] == pytest.approx(mini, abs=1e-6)
    assert got[2, 1] == pytest.approx(0.99 * mini, abs=1e-6)
    np.testing.assert_array_equal(isochrone.eep_u, EEP)
    assert np.isnan(isochrone.get_predictions(feh=-0.5, loga=8.0)).all()


def test_networks(files, rng):
    network = FastNN(nnfile=files / "nn.h5", verbose=False)
    assert network.filters == BANDS  # in the usual order
    with h5py.File(files / "nn.h5") as file:
        layers = {
            n: np.stack([file[f"{b}/{n}"][:] for b in BANDS])
            for n in ("w1", "b1", "w2", "b2", "w3", "b3")
        }
    low, high = network.xmin, network.xmax
    x = low[:, None] + (high - low)[:, None] * rng.random((6, 6))
    scaled = (x - low[:, None]) / (high - low)[:, None]

    def logistic(a):
        return 1.0 / (1.0 + np.exp(-a))

    hidden = logistic(layers["w1"] @ scaled + layers["b1"])
    hidden = logistic(layers["w2"] @ hidden + layers["b2"])
    want = (layers["w3"] @ hidden + layers["b3"])[:, 0]
    np.testing.assert_allclose(network.nneval(x), want, atol=5e-5)
    np.testing.assert_allclose(network.nneval(x[:, 0]), want[:, 0], atol=5e-5)
    np.testing.assert_allclose(network.encode(x), scaled, atol=1e-6)
    assert network.encode(x[:, 0]).shape == (6, 1)


def test_magnitudes_of_networks(files):
    predictor = FastNNPredictor(nnfile=files / "nn.h5", filters=["PS_r", "PS_g"], verbose=False)
    one = dict(logt=3.75, logg=4.4, feh_surf=-0.3, logl=0.2, av=0.5, rv=3.1, dist=100.0)
    mag = predictor.sed(**one)
    x = [10.0**3.75, 4.4, -0.3, 0.0, 0.5, 3.1]
    np.testing.assert_allclose(mag, 4.74 - 0.5 - predictor.nneval(x) + 5.0, atol=5e-5)
    assert predictor.sed(**one, filt_idxs=[1]).shape == (1,)
    assert np.isnan(predictor.sed(**{**one, "av": 7.0})).all()
    assert np.isnan(predictor.sed(**{**one, "logl": np.nan})).all()
    batch = predictor.sed_batch(
        [3.75, 5.0], [4.4, 4.4], [-0.3, 0.0], [0.2, 0.0], [0.0, 0.0], 0.5, 3.1, 100.0
    )
    np.testing.assert_allclose(batch[0], mag, atol=1e-6)
    assert np.isnan(batch[1]).all()


def test_everything_runs_on_them(files):
    tracks = EEPTracks(files / "tracks.h5", verbose=False)
    pop = StellarPop(Isochrone(files / "iso.h5", verbose=False), BANDS, files / "nn.h5", False)
    alone, first, _ = pop.get_seds(feh=-0.5, loga=9.2)
    pair, _, second = pop.get_seds(feh=-0.5, loga=9.2, binary_fraction=0.8, mini_bound=0.35)
    both = np.isfinite(second["mini"])
    assert both.any() and (pair[both] < alone[both] - 1e-3).any()
    np.testing.assert_allclose(second["mini"][both], 0.8 * first["mini"][both], rtol=1e-5)
    star_ = StarEvolTrack(tracks, BANDS, files / "nn.h5", verbose=False)
    sed, params, params2, eep2 = star_.get_seds(
        mini=1.0, eep=330.0, feh=-0.5, smf=0.9, loga_max=11.0, return_eep2=True
    )
    assert params2["loga"] == pytest.approx(params["loga"], abs=1e-3)
    assert np.isfinite(sed).all() and eep2 < 330.0
    generator = GridGenerator(tracks, BANDS, files / "nn.h5", verbose=False)
    grid = generator.make_grid(
        [0.8, 1.0], EEP[::7], [-1.0, 0.0], smf_grid=[0.0, 0.9], loga_max=11.0, apply_corr=False
    )
    assert grid.band_system == ("AB",) * 3
    row = np.flatnonzero(
        (grid.label_table["mini"] == 1.0)
        & (np.asarray(grid.label_table["eep"]) == EEP[21])
        & (grid.label_table["feh"] == 0.0)
        & (grid.label_table["smf"] == 0.9)
    )
    want = star_.get_seds(
        mini=1.0, eep=EEP[21], feh=0.0, smf=0.9, loga_max=11.0, apply_corr=False, rv=3.3
    )[0]
    np.testing.assert_allclose(np.asarray(grid.mag)[row[0]], want, atol=2e-4)


def test_files_that_are_something_else(files, tmp_path):
    (tmp_path / "text.h5").write_text("no HDF5")
    for opened in (EEPTracks, Isochrone):
        with pytest.raises(ValueError, match="text.h5"):
            opened(tmp_path / "text.h5", verbose=False)
        with pytest.raises(FileNotFoundError, match="gone.h5"):
            opened(tmp_path / "gone.h5", verbose=False)
    with pytest.raises(ValueError, match="brutus' layout"):
        EEPTracks(files / "iso.h5", verbose=False)
    with pytest.raises(ValueError, match="brutus' layout"):
        Isochrone(files / "tracks.h5", verbose=False)
    with pytest.raises(ValueError, match="SDSS_u"):
        FastNN(["SDSS_u"], files / "nn.h5")
    with pytest.raises(ValueError, match="brutus' layout"):
        FastNN(nnfile=files / "iso.h5")
    with pytest.raises(FileNotFoundError, match="gone"):
        FastNN(nnfile=tmp_path / "gone.h5")


def test_jacobians_of_linear_tracks(files):
    import jax

    tracks = EEPTracks(files / "tracks.h5", verbose=False)
    slope = jax.grad(lambda m: tracks.evaluate(m, 305.0, -0.4).logl)(jnp.asarray(0.9))
    assert slope == pytest.approx(4.0, rel=1e-4)
