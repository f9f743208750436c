"""Dust maps: files of mixed pixel sizes read back exactly, masks, and bad files."""

import h5py
import numpy as np
import pytest

pytest.importorskip("astropy_healpix")
from astropy import units
from astropy.coordinates import SkyCoord
from astropy_healpix import HEALPix

from brutax.dust import Bayestar, DustMap, DustMapError, ForeignMap, lb2pix
from brutax.priors import dust_profile

DISTS = 10.0 ** (np.linspace(4, 19, 31) / 5 - 2)
INFO = [
    ("nside", "i4"),
    ("healpix_index", "i8"),
    ("converged", "u1"),
    ("DM_reliable_min", "f4"),
    ("DM_reliable_max", "f4"),
]


def write(path, info, mean, std, dists=DISTS):
    with h5py.File(path, "w") as file:
        file["pixel_info"], file["dists"] = info, dists
        file["av_mean"], file["av_std"] = mean, std
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All of the sky in pixels of nside 4, refined to 8 or 32 in places, in random order."""
    rng = np.random.default_rng(3)
    pixels = []
    for k in range(12 * 4**2):
        if k % 7 == 0:
            continue  # holes
        if k % 3:
            pixels.append((4, k))
        elif k % 2:
            pixels += [(8, 4 * k + j) for j in range(4)]
        else:
            pixels += [(32, 64 * k + j) for j in range(64) if j != 5]
    pixels = rng.permutation(pixels)
    info = np.zeros(len(pixels), INFO)
    info["nside"], info["healpix_index"] = pixels.T
    info["converged"] = rng.random(len(pixels)) > 0.1
    info["DM_reliable_min"] = rng.uniform(4, 8, len(pixels))
    info["DM_reliable_max"] = rng.uniform(12, 18, len(pixels))
    info["DM_reliable_min"][:3], info["DM_reliable_max"][3:6] = -np.inf, np.inf
    info["DM_reliable_min"][6:9], info["DM_reliable_max"][9:12] = np.nan, np.nan
    mean = np.cumsum(rng.random((len(pixels), 31)), axis=1).astype("f4")
    std = rng.uniform(0.01, 0.3, mean.shape).astype("f4")
    path = tmp_path_factory.mktemp("maps") / "bayestar.h5"
    return write(path, info, mean, std), info, mean, std


def centres(info):
    sky = np.empty((len(info), 2))
    for nside in np.unique(info["nside"]):
        at = info["nside"] == nside
        lon, lat = HEALPix(nside, "nested").healpix_to_lonlat(info["healpix_index"][at])
        sky[at] = np.stack([lon.deg, lat.deg], axis=1)
    return sky


def test_every_pixel_is_read_back_exactly(made):
    path, info, mean, std = made
    dustmap = Bayestar(path, apply_reliability_mask=False)
    sky = centres(info)
    np.testing.assert_array_equal(dustmap.rows(*sky.T), np.arange(len(info)))
    dist, m, s = dustmap.query(sky)
    np.testing.assert_array_equal(dist, DISTS)
    np.testing.assert_array_equal(m, mean)
    np.testing.assert_array_equal(s, std)
    assert "of nside 32" in repr(dustmap) and isinstance(dustmap, DustMap)


def test_a_finer_pixel_goes_before_a_coarser_one(tmp_path):
    info = np.zeros(2, INFO)
    info["nside"], info["healpix_index"] = (1, 4), (0, 3)
    path = write(tmp_path / "two.h5", info, [[1.0] * 31, [2.0] * 31], np.ones((2, 31)))
    dustmap = Bayestar(path, apply_reliability_mask=False)
    lon, lat = HEALPix(4, "nested").healpix_to_lonlat(np.array([2, 3, 40]))
    found = dustmap.query_gal(lon.deg, lat.deg)[1][:, 0]
    np.testing.assert_array_equal(found, [1.0, 2.0, np.nan])


def test_the_mask_is_that_of_the_definition(made):
    path, info, mean, std = made
    _, m, s = Bayestar(path).query(centres(info))
    dm = 5 * np.log10(DISTS) + 10
    with np.errstate(invalid="ignore"):
        low, high = info["DM_reliable_min"][:, None], info["DM_reliable_max"][:, None]
        good = (dm >= low) & (dm <= high) & (info["converged"][:, None] == 1)
    np.testing.assert_array_equal(np.isfinite(m), good)
    np.testing.assert_array_equal(np.isfinite(s), good)
    np.testing.assert_array_equal(m[good], mean[good])
    on = Bayestar(path, apply_reliability_mask=False)
    np.testing.assert_array_equal(on.query(centres(info), apply_reliability_mask=True)[1], m)


def test_call_forms_and_shapes(made):
    path, info, mean, _ = made
    dustmap = Bayestar(path, apply_reliability_mask=False)
    ell, b = centres(info)[:6].T
    sky = SkyCoord(ell, b, unit="deg", frame="galactic")
    for coords in (sky, sky.icrs, sky.fk4, np.stack([ell, b], axis=1)):
        np.testing.assert_array_equal(dustmap.query(coords)[1], mean[:6])
        assert dustmap.get_query_size(coords) == 6
    assert dustmap.query(sky.reshape(2, 3))[1].shape == (2, 3, 31)
    for coords in (sky[2], (ell[2], b[2]), [ell[2] - 360.0, b[2]]):
        np.testing.assert_array_equal(dustmap(coords)[1], mean[2])
    np.testing.assert_array_equal(dustmap.query_gal(ell[2], b[2])[1], mean[2:3])
    for frame in ("icrs", "fk4", "fk5", "fk4noeterms"):
        there = sky.transform_to(frame)
        np.testing.assert_array_equal(
            dustmap.query_equ(there.ra.deg, there.dec.deg, frame=frame)[1], mean[:6]
        )
    d, m, s = dustmap.query_gal(ell, b, d=[DISTS[3], 1e-4, 1e4, DISTS[0], DISTS[30], 1.0])
    assert d.shape == m.shape == s.shape == (6,)
    np.testing.assert_array_equal(m[:5], mean[range(5), [3, 0, 30, 0, 30]])
    np.testing.assert_allclose(m[5], np.interp(1.0, DISTS, mean[5]), rtol=1e-12)
    dist, *_ = dustmap.query(sky)
    dist[:] = 0.0  # a copy
    np.testing.assert_array_equal(dustmap.query(sky)[0], DISTS)
    twice = Bayestar(path, False, factor=2.742)
    np.testing.assert_allclose(twice.query(sky)[1], 2.742 * mean[:6])


def test_directions_that_do_not_exist_or_are_not_mapped(made):
    path, info, *_ = made
    dustmap = Bayestar(path)
    lon, lat = HEALPix(4, "nested").healpix_to_lonlat(np.array([0, 7]))
    for ell, b in ((np.nan, 0.0), (0.0, 91.0), (0.0, np.nan), (lon[1].deg, lat[1].deg)):
        _, m, s = dustmap.query((ell, b))
        assert np.isnan(m).all() and np.isnan(s).all()
        assert dustmap.rows(ell, b) == -1
    assert np.isnan(dustmap.query_equ(0.0, 95.0)[1]).all()
    for bad in (3.0, np.zeros((4, 3))):
        with pytest.raises(ValueError, match="coords"):
            dustmap.query(bad)
    with pytest.raises(ValueError, match="frame"):
        dustmap.query_equ(0.0, 0.0, frame="galactic")
    with pytest.raises(TypeError, match="mode"):
        dustmap.query((0.0, 0.0), mode="mean")


def test_lb2pix():
    rng = np.random.default_rng(0)
    ell, b = rng.uniform(-400, 400, 50), rng.uniform(-90, 90, 50)
    for nest, order in ((True, "nested"), (False, "ring")):
        wanted = HEALPix(64, order).lonlat_to_healpix((ell % 360) * units.deg, b * units.deg)
        np.testing.assert_array_equal(lb2pix(64, ell, b, nest=nest), wanted)
    assert isinstance(lb2pix(64, 10.0, 20.0), int)
    nowhere = lb2pix(4, np.zeros((2, 1)), [91.0, np.nan, -90.0]) < 0
    np.testing.assert_array_equal(nowhere, [[1, 1, 0]] * 2)
    parents = lb2pix(8, ell, b) >> 2
    np.testing.assert_array_equal(parents, lb2pix(4, ell, b))
    with pytest.raises(ValueError, match="power of 2"):
        lb2pix(3, 0.0, 0.0)


def test_bad_files(made, tmp_path):
    path, info, mean, std = made
    content = path.read_bytes()
    for share, name in ((0.3, "cut.h5"), (0.97, "little.h5"), (0.0, "empty.h5")):
        cut = tmp_path / name
        cut.write_bytes(content[: int(share * len(content))])
        with pytest.raises(DustMapError, match="truncated|not a readable"):
            Bayestar(cut)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Bayestar(tmp_path / "nowhere.h5")
    with pytest.raises(FileNotFoundError, match="brutax data fetch"):
        Bayestar()
    with pytest.raises(DustMapError, match="av_std"):
        Bayestar(write(tmp_path / "a.h5", info, mean, std[:-1]))
    with pytest.raises(DustMapError, match="increase"):
        Bayestar(write(tmp_path / "b.h5", info, mean, std, DISTS[::-1]))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["samples"] = mean
    with pytest.raises(DustMapError, match="pixel_info"):
        Bayestar(tmp_path / "c.h5")
    odd = info.copy()
    odd["nside"][4] = 3
    with pytest.raises(DustMapError, match="powers of 2"):
        Bayestar(write(tmp_path / "d.h5", odd, mean, std))
    plain = write(tmp_path / "e.h5", info[["nside", "healpix_index"]], mean, std)
    with pytest.warns(RuntimeWarning, match="nothing is masked"):
        found = Bayestar(plain).query(centres(info[:20]))[1]
    np.testing.assert_array_equal(found, mean[:20])
    with pytest.raises(ValueError, match="factor"):
        Bayestar(path, factor=-1.0)


def test_real_sight_lines(shared, tmp_path):
    """The published Bayestar 2015 profiles of eight directions, through a file and back."""
    heads, tables = [], []
    for line in (shared / "dust/bayestar15_argonaut_output_v1.txt").read_text().splitlines():
        for key in ("l =", "b =", "min:", "max:"):
            if line.startswith("#") and line[1:].strip().startswith(key):
                heads.append(float(line.split()[-1]))
        if "BestFit" in line:
            tables.append([])
        elif tables and line.split("|")[0].strip().isdigit():
            tables[-1].append([float(x) for x in line.split("|")[1].split()])
    ell, b, low, high = np.array(heads).reshape(-1, 4).T
    draws = np.array(tables)
    assert draws.shape == (8, 20, 31)
    info = np.zeros(8, INFO)
    info["nside"], info["healpix_index"] = 512, lb2pix(512, ell, b)
    info["converged"], info["DM_reliable_min"], info["DM_reliable_max"] = 1, low, high
    mean, std = draws.mean(axis=1), draws.std(axis=1, ddof=1)
    dustmap = Bayestar(write(tmp_path / "real.h5", info, mean, std), factor=2.742)
    dist, m, s = dustmap.query_gal(ell, b)
    dm = 5 * np.log10(dist) + 10
    seen = (dm >= low[:, None]) & (dm <= high[:, None])
    np.testing.assert_array_equal(np.isfinite(m), seen)
    np.testing.assert_array_equal(m[seen], 2.742 * mean[seen])
    # behind the cloud of l = 102, b = 15
    near, far = (dustmap.query_gal(ell[6], b[6], d=x)[1][0] for x in (0.42, 1.0))
    assert near > 3.0 and far > 3.0
    prior = dust_profile(dustmap, ell[6], b[6], 0.0, 10.0)
    mu, inv = prior.moments(np.float32(1.0))
    assert abs(float(mu) - np.interp(1.0, dist[seen[6]], m[6][seen[6]])) < 1e-3 and inv > 5


class Three:
    """A map in distance, with modes, in a unit of its own; NaN in the south."""

    distances = np.array([0.1, 1.0, 10.0]) * units.kpc

    def query(self, coords, mode="mean"):
        b = coords.galactic.b.deg
        out = np.where(b[:, None] > 0, np.abs(b)[:, None] * self.distances.value, np.nan)
        if mode == "mean":
            return out
        if mode != "samples":
            raise ValueError(mode)
        return out[:, None] * np.array([0.9, 1.0, 1.1])[:, None]


class Two:
    """A map of all dust, with one mode."""

    def query(self, coords, order=1):
        return 0.1 * np.abs(coords.b.deg)


class Asked:
    """A map that is asked at distances."""

    def query(self, coords, mode="mean"):
        return coords.distance.kpc * (1.0 if mode == "mean" else 0.2)


def test_maps_of_other_packages():
    sky = np.array([[10.0, 20.0], [30.0, -5.0], [np.nan, 1.0]])
    dist, mean, std = ForeignMap(Three(), 3.1).query(sky)
    np.testing.assert_array_equal(dist, [0.1, 1.0, 10.0])
    np.testing.assert_allclose(mean[0], 3.1 * 20.0 * dist)
    np.testing.assert_allclose(std[0], 0.1 * mean[0])
    assert np.isnan(mean[1:]).all() and np.isnan(std[1:]).all()
    dist, mean, std = ForeignMap(Two(), 2.742, scatter=0.16).query(sky[0])
    np.testing.assert_allclose(mean, 2.742 * 2.0)
    np.testing.assert_allclose(std, 0.16 * mean)
    with pytest.raises(DustMapError, match="scatter"):
        ForeignMap(Two(), 2.742).query(sky[0])
    nodes = [0.5, 2.0]
    dist, mean, std = ForeignMap(Asked(), 2.0, distances=nodes).query(sky)
    np.testing.assert_allclose(mean[:2], [[1.0, 4.0]] * 2)
    np.testing.assert_allclose(std[:2], 0.2 * mean[:2])
    prior = dust_profile(ForeignMap(Two(), 1.0, scatter=0.1), 0.0, 30.0)
    np.testing.assert_allclose(prior.moments(np.float32(0.7)), (3.0, 1 / 0.3), rtol=1e-5)
    with pytest.raises(ValueError, match="factor"):
        ForeignMap(Two(), 0.0)
    with pytest.raises(TypeError, match="query"):
        ForeignMap(object(), 1.0)
