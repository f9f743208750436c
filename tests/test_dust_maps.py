"""Dust maps in files: read back exactly, masked, refused, and as priors of fits."""

import warnings

import h5py
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy_healpix import HEALPix

from brutax.analysis import BruteForce
from brutax.cli.app import main
from brutax.core import StarGrid, demo_grid
from brutax.dust import Bayestar, DustMap, MapError, lb2pix

DIST = np.array([0.1, 0.3, 1.0, 3.0])


def write_map(path, *, nside, pixel, mean, std=None, reliable=True, **more):
    kind = [("nside", "i4"), ("healpix_index", "i8")]
    if reliable:
        kind += [("converged", "u1"), ("DM_reliable_min", "f4"), ("DM_reliable_max", "f4")]
    info = np.zeros(len(nside), dtype=kind)
    info["nside"], info["healpix_index"] = nside, pixel
    if reliable:
        info["converged"] = more.get("converged", 1)
        info["DM_reliable_min"] = more.get("low", -np.inf)
        info["DM_reliable_max"] = more.get("high", np.inf)
    with h5py.File(path, "w") as file:
        file["pixel_info"], file["dists"] = info, DIST
        file["av_mean"] = mean
        file["av_std"] = 0.1 * np.ones_like(mean) if std is None else std
    return path


@pytest.fixture
def mixed(tmp_path, rng):
    """All pixels of nside 2, and those of nside 4 in three of them, in any order."""
    nside = np.concatenate([np.full(48, 2), np.full(12, 4)])
    pixel = np.concatenate([np.arange(48), np.arange(20, 32)])
    order = rng.permutation(60)
    mean = rng.uniform(0, 2, (60, 4))
    path = write_map(tmp_path / "map.h5", nside=nside[order], pixel=pixel[order], mean=mean)
    return path, nside[order], pixel[order], mean


def test_pixels():
    """Golden numbers of brutus 1.2.0, and the centres of all pixels."""
    assert lb2pix(64, 0, 0) == 19456 and lb2pix(64, 0, 95) == -1
    assert lb2pix(64, 10, 10) == lb2pix(64, 370, 10) == 19543
    assert isinstance(lb2pix(64, 0.0, 0.0), int)
    lon, lat = (x.deg for x in HEALPix(4, order="nested").healpix_to_lonlat(np.arange(192)))
    np.testing.assert_array_equal(lb2pix(4, lon, lat), np.arange(192))
    ring = lb2pix(4, lon, lat, nest=False)
    assert sorted(ring) == list(range(192)) and not np.array_equal(ring, np.arange(192))
    np.testing.assert_array_equal(lb2pix(4, [np.nan, 0.0], [0.0, -91.0]), [-1, -1])


def test_a_map_is_read_back_exactly(mixed):
    """At pixel centres: the finest pixel there, whatever the order of rows and positions."""
    path, nside, pixel, mean = mixed
    found = Bayestar(path)
    for size in (4, 2):
        rows = np.flatnonzero(nside == size)
        lon, lat = HEALPix(size, order="nested").healpix_to_lonlat(pixel[rows])
        # a bit off the centre, which is a corner of smaller pixels
        sky = np.stack([lon.deg + 0.5, lat.deg], axis=1)
        dist, av, std = found.query(sky)
        inner = np.isin(pixel[rows], [5, 6, 7]) if size == 2 else np.zeros(len(rows), bool)
        np.testing.assert_array_equal(dist, DIST)
        np.testing.assert_array_equal(av[~inner], mean[rows[~inner]])
        for k in np.flatnonzero(inner):  # covered by finer ones
            match = (nside == 4) & np.all(mean == av[k], axis=1)
            assert match.sum() == 1 and pixel[match][0] // 4 == pixel[rows[k]]
    one = found.query([10.0, 20.0])
    assert one[1].shape == (4,) and found.get_query_size([[1, 2], [3, 4]]) == 2
    scalar = SkyCoord(10.0, 20.0, unit="deg", frame="galactic")
    np.testing.assert_array_equal(found.query(scalar)[1], one[1])
    np.testing.assert_array_equal(found(scalar.icrs)[1], one[1])
    np.testing.assert_array_equal(found.query_gal(10.0, 20.0)[1], one[1][None])
    equ = scalar.icrs
    np.testing.assert_array_equal(found.query_equ(equ.ra.deg, equ.dec.deg)[1], one[1][None])
    between = found.query_gal(10.0, 20.0, d=0.2)[0]
    np.testing.assert_allclose(between, 0.5 * (one[1][0] + one[1][1]))
    double = Bayestar(path, av_per_unit=2.0)
    np.testing.assert_array_equal(double.query([10.0, 20.0])[1], 2 * one[1])
    with pytest.raises(ValueError, match="frame"):
        found.query_equ(1.0, 2.0, frame="galactic")


def test_what_is_not_reliable_is_masked(tmp_path):
    """Between the limits of each pixel; NaN limits and pixels that did not converge say nothing."""
    low = np.array([-np.inf, 10.0, np.nan, 6.0])
    high = np.array([np.inf, 12.0, 12.0, np.nan])
    mean = np.ones((12, 4))
    cycle = {"low": np.tile(low, 3), "high": np.tile(high, 3), "converged": [1] * 11 + [0]}
    path = write_map(tmp_path / "m.h5", nside=[1] * 12, pixel=np.arange(12), mean=mean, **cycle)
    found = Bayestar(path)
    lon, lat = (x.deg for x in HEALPix(1, order="nested").healpix_to_lonlat(np.arange(12)))
    _, av, std = found.query(np.stack([lon, lat], 1))
    np.testing.assert_array_equal(np.isfinite(av[:4]), [[1] * 4, [0, 0, 1, 0], [0] * 4, [0] * 4])
    assert np.array_equal(np.isfinite(av), np.isfinite(std)) and np.isnan(av[11]).all()
    _, av, _ = found.query(np.stack([lon, lat], 1), apply_reliability_mask=False)
    assert np.isfinite(av).all()
    plain = write_map(tmp_path / "p.h5", nside=[1], pixel=[0], mean=np.ones((1, 4)), reliable=False)
    with pytest.warns(RuntimeWarning, match="nothing is masked"):
        Bayestar(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        partial = Bayestar(plain, apply_reliability_mask=False)
    assert np.isnan(partial.query([0.0, -89.0])[1]).all()  # outside the map
    assert np.isnan(partial.query([np.nan, 0.0])[1]).all()


def test_bad_maps_are_refused(mixed, tmp_path):
    path = mixed[0]
    with pytest.raises(MapError, match="does not exist"):
        Bayestar(tmp_path / "none.h5")
    whole = path.read_bytes()
    (tmp_path / "short.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MapError, match="short.h5"):
        Bayestar(tmp_path / "short.h5").query([0.0, 0.0])
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["stars"] = np.zeros(3)
    with pytest.raises(MapError, match="no pixel_info"):
        Bayestar(tmp_path / "other.h5")
    for wrong, text in (
        (dict(nside=[2], pixel=[48], mean=np.ones((1, 4))), "no such pixels"),
        (dict(nside=[3], pixel=[0], mean=np.ones((1, 4))), "powers of two"),
        (dict(nside=[2, 2], pixel=[1, 1], mean=np.ones((2, 4))), "twice"),
        (dict(nside=[2], pixel=[1], mean=np.ones((1, 3))), "is needed"),
    ):
        with pytest.raises(MapError, match=text):
            Bayestar(write_map(tmp_path / "wrong.h5", **wrong))
    with pytest.raises(ValueError, match="av_per_unit"):
        Bayestar(path, av_per_unit=0.0)
    with pytest.raises(ValueError, match="positions"):
        Bayestar(path).query(np.zeros((2, 3)))
    with pytest.raises(NotImplementedError):
        DustMap().query([0.0, 0.0])


@pytest.mark.slow
def test_a_map_file_is_the_prior_of_a_fit(tmp_path):
    """As a file, or as an object asked star by star: one posterior."""
    mean = np.tile([0.1, 0.3, 0.6, 0.8], (12, 1))
    path = write_map(
        tmp_path / "m.h5", nside=[1] * 12, pixel=np.arange(12), mean=mean, std=mean * 0 + 0.03
    )
    bands = ("PS_g", "PS_r", "2MASS_J", "2MASS_Ks")
    grid: StarGrid = demo_grid(bands=bands, n_mass=24, n_eep=24, n_feh=3)
    mag = np.array([[16.2, 15.6, 14.3, 13.7], [17.0, 16.3, 15.1, 14.5]])
    err = np.full(mag.shape, 0.05)
    kw = {"data_coords": [[90.0, 20.0], [np.nan, np.nan]], "units": "mag", "verbose": False}
    kw |= {"n_samples": 200, "batch_size": 8}
    fitter = BruteForce(grid, verbose=False)
    out = fitter.fit(mag, err, dustfile=path, **kw)

    class Asked:  # the same map, as any object with `query`
        def query(self, coord):
            return Bayestar(path).query(coord)

    same = fitter.fit(mag, err, dustfile=Asked(), **kw)
    for name in ("samps_red", "summary_mean", "obj_log_evid"):
        np.testing.assert_array_equal(out[name], same[name])
    expected = np.interp(out["samps_dist"][0], DIST, mean[0])
    assert np.std((out["samps_red"][0] - expected) / 0.03) < 1.5
    assert out["obj_ess"][0] > 0.5 * out["obj_nsamp"][0]
    free = fitter.fit(mag, err, **kw)  # where the map says nothing, A_V is uniform
    np.testing.assert_allclose(out["summary_mean"][1], free["summary_mean"][1], rtol=1e-3)
    wide = fitter.fit(mag, err, dustfile=path, dust_floor=0.3, **kw)
    spread = [
        np.std(x["samps_red"][0] - np.interp(x["samps_dist"][0], DIST, mean[0]))
        for x in (out, wide)
    ]
    assert spread[1] > 2 * spread[0]
    with pytest.raises(ValueError, match="dust_floor"):
        fitter.fit(mag, err, dustfile=path, dust_floor=-0.1, **kw)


def test_the_command_refuses_a_map_that_is_not_there(tmp_path, capsys):
    table = tmp_path / "stars.csv"
    table.write_text("PS_g,PS_g_err,PS_r,PS_r_err,l,b\n16.2,0.05,15.6,0.05,90.0,20.0\n")
    command = ["fit", str(table), "-g", "demo", "-o", str(tmp_path / "o.h5"), "--units", "mag"]
    assert main([*command, "--dust-map", str(tmp_path / "none.h5")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "o.h5").exists()
