"""Files of dust maps as priors of fits."""

import h5py
import numpy as np
import pytest

from brutax.analysis import BruteForce
from brutax.cli.app import main
from brutax.dust import Bayestar
from brutax.models import StarGrid, demo_grid

DIST = np.array([0.1, 0.3, 1.0, 3.0])


def write_map(path, mean, std):
    """A map of one pixel size."""
    info = np.zeros(12, dtype=[("nside", "i4"), ("healpix_index", "i8")])
    info["nside"], info["healpix_index"] = 1, np.arange(12)
    with h5py.File(path, "w") as file:
        file["pixel_info"], file["dists"] = info, DIST
        file["av_mean"], file["av_std"] = np.tile(mean, (12, 1)), np.full((12, 4), std)
    return path


@pytest.mark.slow
def test_a_map_file_is_the_prior_of_a_fit(tmp_path):
    """As a file, or as an object asked star by star: one posterior."""
    mean = np.array([0.1, 0.3, 0.6, 0.8])
    path = write_map(tmp_path / "m.h5", mean, 0.03)
    bands = ("PS_g", "PS_r", "2MASS_J", "2MASS_Ks")
    grid: StarGrid = demo_grid(bands=bands, n_mass=24, n_eep=24, n_feh=3)
    mag = np.array([[16.2, 15.6, 14.3, 13.7], [17.0, 16.3, 15.1, 14.5]])
    err = np.full(mag.shape, 0.05)
    kw = {"data_coords": [[90.0, 20.0], [np.nan, np.nan]], "units": "mag", "verbose": False}
    kw |= {"n_samples": 200, "batch_size": 8}
    fitter = BruteForce(grid, verbose=False)
    with pytest.warns(RuntimeWarning, match="nothing is masked"):
        out = fitter.fit(mag, err, dustfile=path, **kw)
    dustmap = Bayestar(path, apply_reliability_mask=False)

    class Asked:  # the same map, as any object with `query`
        def query(self, coord):
            return dustmap.query(coord)

    same = fitter.fit(mag, err, dustfile=Asked(), **kw)
    for name in ("samps_red", "summary_mean", "obj_log_evid"):
        np.testing.assert_array_equal(out[name], same[name])
    expected = np.interp(out["samps_dist"][0], DIST, mean)
    assert np.std((out["samps_red"][0] - expected) / 0.03) < 1.5
    assert out["obj_ess"][0] > 0.5 * out["obj_nsamp"][0]
    free = fitter.fit(mag, err, **kw)  # where the map says nothing, A_V is uniform
    np.testing.assert_allclose(out["summary_mean"][1], free["summary_mean"][1], rtol=1e-3)
    wide = fitter.fit(mag, err, dustfile=dustmap, dust_floor=0.3, **kw)
    spread = [
        np.std(x["samps_red"][0] - np.interp(x["samps_dist"][0], DIST, mean)) for x in (out, wide)
    ]
    assert spread[1] > 2 * spread[0]
    with pytest.raises(ValueError, match="dust_floor"):
        fitter.fit(mag, err, dustfile=dustmap, dust_floor=-0.1, **kw)


def test_the_command_refuses_a_map_that_is_not_there(tmp_path, capsys):
    table = tmp_path / "stars.csv"
    table.write_text("PS_g,PS_g_err,PS_r,PS_r_err,l,b\n16.2,0.05,15.6,0.05,90.0,20.0\n")
    command = ["fit", str(table), "-g", "demo", "-o", str(tmp_path / "o.h5"), "--units", "mag"]
    assert main([*command, "--dust-map", str(tmp_path / "none.h5")]) == 2
    assert "no dust map" in capsys.readouterr().err
    assert not (tmp_path / "o.h5").exists()
