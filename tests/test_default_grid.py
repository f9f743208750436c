"""No grid given: one is built for the bands of the table, kept, and used."""

import logging

import numpy as np
import pytest
from astropy.table import Table

import brutax
from brutax.cli import main
from brutax.data.filters import full_names
from brutax.models import StarGrid, available_bands, default_grid
from brutax.models.grid import default

BANDS = ("PS_g", "PS_i", "2MASS_J", "2MASS_Ks")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A default grid of few models, kept in a folder of its own."""
    monkeypatch.setattr(default, "MINI", np.round(np.geomspace(0.3, 1.6, 16), 4))
    monkeypatch.setattr(default, "EEP", np.arange(202.0, 500.0, 20.0))
    monkeypatch.setattr(default, "FEH", np.array([-1.0, -0.5, 0.0]))
    monkeypatch.setenv("BRUTAX_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data" / "grids"


def test_the_shipped_recipe_covers_the_usual_stars():
    assert default.MINI[0] == 0.1 and default.MINI[-1] == 3.0
    assert (default.EEP[0], default.EEP[-1]) == (202.0, 806.0)
    assert (default.FEH[0], default.FEH[-1]) == (-2.5, 0.5)
    assert np.any(default.EEP == 454.0)  # the turn-off is a node


def test_built_once(small, caplog):
    with caplog.at_level(logging.INFO, "brutax"):
        first = default_grid(BANDS)
    assert "building" in caplog.text and len(list(small.iterdir())) == 1
    caplog.clear()
    with caplog.at_level(logging.INFO, "brutax"):
        again = default_grid(BANDS[::-1])  # the order of bands does not matter to the file
    assert "building" not in caplog.text and len(list(small.iterdir())) == 1
    assert first.bands == BANDS and again.bands == BANDS[::-1]
    np.testing.assert_array_equal(first.mag, np.asarray(again.mag)[:, ::-1])


def test_another_recipe_is_another_file(small, monkeypatch):
    default_grid(BANDS, verbose=False)
    monkeypatch.setattr(default, "FEH", np.array([-0.5, 0.0]))
    assert set(np.asarray(default_grid(BANDS, verbose=False).label_table["feh"])) == {-0.5, 0.0}
    assert len(list(small.iterdir())) == 2


def test_a_damaged_file_is_made_anew(small, caplog):
    grid = default_grid(BANDS, verbose=False)
    (path,) = small.iterdir()
    path.write_bytes(path.read_bytes()[:5000])
    again = default_grid(BANDS, verbose=False)
    assert "damaged" in caplog.text and len(again) == len(grid)
    assert len(StarGrid.read(path)) == len(grid)


def test_a_folder_that_cannot_be_written(small, caplog, tmp_path):
    (tmp_path / "file").write_text("in the way")
    grid = default_grid(BANDS, cache=tmp_path / "file" / "grids", verbose=False)
    assert len(grid) > 100 and "BRUTAX_DATA_DIR" in caplog.text


def test_fit_without_a_grid(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["mock", "--bands", ",".join(BANDS), "-n", "6", "-o", "stars.csv", "-q"]) == 0
    fast = ["--effort", "low", "--draws", "50"]
    assert main(["fit", "stars.csv", *fast]) == 0
    out = capsys.readouterr().out
    assert "fitted 6 of 6" in out and "grids" in out
    result = brutax.load("stars_posterior.h5")
    assert len(list(small.iterdir())) == 1
    # the same from Python, with the same draws
    same = brutax.fit("stars.csv", effort="low", draws=50, progress=False)
    np.testing.assert_array_equal(same["samps_dist"], result["samps_dist"])


def test_a_table_without_known_bands(tmp_path):
    path = tmp_path / "stars.csv"
    Table({"x": [1.0], "y_err": [2.0]}).write(path)
    with pytest.raises(ValueError, match="photometry"):
        brutax.fit(path)


@pytest.mark.parametrize(
    "short, full",
    [
        (["g", "r", "i", "z", "y"], [f"PS_{x}" for x in "grizy"]),
        (
            ["bp", "g", "rp", "j", "h", "ks"],
            ["Gaia_BP_EDR3", "Gaia_G_EDR3", "Gaia_RP_EDR3", "2MASS_J", "2MASS_H", "2MASS_Ks"],
        ),
        (["u", "g", "r"], ["SDSS_u", "SDSS_g", "SDSS_r"]),
        (["W1", "PS_g"], ["WISE_W1", "PS_g"]),
        (["PS_w"], ["PS_w"]),  # a full name, known or not
    ],
)
def test_short_names(short, full):
    assert full_names(short) == tuple(full)


@pytest.mark.parametrize("names", [["g"], ["g", "r", "i", "z"], ["u", "g", "y"], ["bp", "g", "y"]])
def test_unclear_short_names(names):
    with pytest.raises(ValueError, match="PS_g.* or SDSS_g"):
        full_names(names)


def test_bands_are_sorted():
    bands = available_bands()
    assert len(bands) == len(set(bands)) == 47
    grizy = [band for band in bands if band.startswith("PS_")]
    assert grizy == [f"PS_{x}" for x in "grizy"]
