"""Grid files: both layouts bit for bit, parts of them, and files that are no grids."""

import gc
import tempfile

import h5py
import numpy as np
import pytest

from brutax.data import GridError, grid_hash, read_grid, write_grid
from brutax.models import demo_grid

BANDS = ("PS_g", "PS_r", "2MASS_J")


@pytest.fixture(scope="module")
def data():
    return demo_grid(BANDS, 7, 9, 5).to_data()


def assert_same(a, b):
    assert (a.bands, a.axes) == (b.bands, b.axes)
    assert list(a.labels) == list(b.labels)
    for x, y in [(a.mag, b.mag), (a.red, b.red), (a.dred, b.dred)]:
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, y)
    for name in a.labels:
        np.testing.assert_array_equal(a.labels[name], b.labels[name])


@pytest.mark.parametrize("layout", ["brutus", "plain"])
@pytest.mark.parametrize("memmap", [False, True])
def test_round_trip(tmp_path, data, layout, memmap):
    path = write_grid(tmp_path / "g.h5", data, layout, attrs={"note": "hello"}, version="9.9")
    back = read_grid(path, memmap=memmap)
    assert_same(back, data)
    assert grid_hash(back) == grid_hash(data)
    assert back.attrs["band_system"] == ("AB",) * 3
    assert back.attrs["note"] == "hello" and back.attrs["brutax_version"] == "9.9"
    assert "NOT for science" in back.attrs["provenance"]


def test_datasets_of_the_layouts(tmp_path, data):
    with h5py.File(write_grid(tmp_path / "b.h5", data)) as f:
        assert f["mag_coeffs"].dtype.names == BANDS
        assert f["mag_coeffs"].dtype["PS_r"] == np.dtype(("<f4", (3,)))
        assert f["labels"].dtype.names == ("mini", "eep", "feh")
        assert f["parameters"].dtype.names == ("loga", "logl", "logt", "logg", "agewt")
        assert f["mag_coeffs"].compression == "gzip"
        assert f.attrs["reference_distance_pc"] == 1000.0
        assert f.attrs["n_models_valid"] == len(data.mag) < f.attrs["n_models_total"] == 315
        assert [x.decode() for x in f.attrs["filters"]] == list(BANDS)
    with h5py.File(write_grid(tmp_path / "p.h5", data, "plain")) as f:
        for key in ("models", "reddening", "reddening_deriv"):
            assert f[key].shape == data.mag.shape
        assert f["labels"].shape == (len(data.mag), 3)
        assert f.attrs["reference_distance"] == 1000.0 and f.attrs["n_models"] == len(data.mag)


def test_plain_file_of_the_documentation(tmp_path):
    """Four unnamed label columns, magnitudes for another distance."""
    with h5py.File(tmp_path / "doc.h5", "w") as f:
        f["models"] = np.array([[5.0, 4.0], [6.0, 5.0]], np.float32)
        f["reddening"] = np.array([[1.2, 0.8], [1.2, 0.8]])
        f["reddening_deriv"] = np.zeros((2, 2))
        f["labels"] = np.array([[1.0, 350.0, 0.0, 0.0], [0.9, 350.0, 0.0, 0.0]])
        f.attrs["filters"] = ["g", "r"]
        f.attrs["reference_distance"] = 10.0
    grid = read_grid(tmp_path / "doc.h5", bands=["r"])
    assert grid.axes == ("mini", "eep", "feh", "afe")
    np.testing.assert_array_equal(grid.mag, np.float32([[14.0], [15.0]]))
    np.testing.assert_array_equal(grid.labels["mini"], [1.0, 0.9])


@pytest.mark.parametrize("layout", ["brutus", "plain"])
def test_bands_and_rows(tmp_path, data, layout):
    path = write_grid(tmp_path / "g.h5", data, layout)
    n = len(data.mag)
    mask = np.arange(n) % 3 == 0
    for rows in (slice(5, 50), mask, np.array([17, 3, 150, 4])):
        part = read_grid(path, bands=["2MASS_J", "PS_g"], rows=rows)
        np.testing.assert_array_equal(part.mag, data.mag[rows][:, [2, 0]])
        np.testing.assert_array_equal(part.labels["agewt"], data.labels["agewt"][rows])
    assert read_grid(path, rows=7).mag.shape == (1, 3)


def test_blocks_are_joined(tmp_path, data, monkeypatch):
    monkeypatch.setattr("brutax.data._layouts.BLOCK", 13)
    for layout in ("brutus", "plain"):
        path = write_grid(tmp_path / f"{layout}.h5", data, layout)
        assert_same(read_grid(path), data)
        assert_same(read_grid(path, memmap=True), data)
        rows = np.array([170, 5, 100, 5])
        np.testing.assert_array_equal(read_grid(path, rows=rows).mag, data.mag[rows])


@pytest.mark.parametrize("memmap", [False, True])
def test_rows_that_are_not_finite_are_dropped(tmp_path, data, memmap):
    mag, labels = data.mag.copy(), {k: v.copy() for k, v in data.labels.items()}
    mag[3, 0] = np.nan
    mag[8, 2] = np.inf
    labels["feh"][11] = np.nan
    path = write_grid(tmp_path / "g.h5", data._replace(mag=mag, labels=labels))
    keep = np.delete(np.arange(len(mag)), [3, 8, 11])
    np.testing.assert_array_equal(read_grid(path, memmap=memmap).mag, data.mag[keep])
    # a band that is not loaded drops nothing
    keep = np.delete(np.arange(len(mag)), [3, 11])
    part = read_grid(path, bands=["PS_g", "PS_r"], memmap=memmap)
    np.testing.assert_array_equal(part.mag, data.mag[keep][:, :2])
    np.testing.assert_array_equal(part.labels["loga"], data.labels["loga"][keep])


def test_phases(tmp_path, data):
    path = write_grid(tmp_path / "g.h5", data)
    main = read_grid(path, include_postms=False)
    evolved = read_grid(path, include_ms=False)
    assert main.labels["eep"].max() <= 454 < evolved.labels["eep"].min()
    assert len(main.mag) + len(evolved.mag) == len(data.mag)


def test_memmap_cache(tmp_path, data):
    path = write_grid(tmp_path / "g.h5", data)
    cache = tmp_path / "cache"
    first = read_grid(path, bands=["PS_r"], memmap=True, cache_dir=cache)
    assert isinstance(first.mag, np.memmap)
    (made,) = cache.iterdir()
    stamp = (made / "coefficients.npy").stat().st_mtime_ns
    again = read_grid(path, bands=["PS_r"], memmap=True, cache_dir=cache)
    assert (made / "coefficients.npy").stat().st_mtime_ns == stamp
    np.testing.assert_array_equal(again.mag[:, 0], data.mag[:, 1])
    write_grid(path, data._replace(mag=data.mag + 1), overwrite=True)
    changed = read_grid(path, bands=["PS_r"], memmap=True, cache_dir=cache)
    np.testing.assert_array_equal(changed.mag[:, 0], data.mag[:, 1] + np.float32(1))


def test_temporary_copy_goes_with_the_arrays(tmp_path, data, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    path = write_grid(tmp_path / "g.h5", data)
    mag = read_grid(path, memmap=True).mag[:4]
    gc.collect()
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    np.testing.assert_array_equal(mag, data.mag[:4])
    del mag
    gc.collect()
    assert not list((tmp_path / "tmp").iterdir())


def test_hash_is_of_the_content(tmp_path, data):
    base = grid_hash(data)
    brighter = data.mag.copy()
    brighter[0, 0] = np.nextafter(brighter[0, 0], np.float32(0))
    swapped = [x[:, ::-1] for x in data[:3]]
    for other in (
        data._replace(mag=brighter),
        data._replace(bands=("PS_g", "PS_r", "2MASS_H")),
        data._replace(labels={**data.labels, "loga": data.labels["loga"] + 1e-12}),
        data._replace(mag=swapped[0], red=swapped[1], dred=swapped[2], bands=BANDS[::-1]),
    ):
        assert grid_hash(other) != base
    backwards = dict(reversed(data.labels.items()))
    assert grid_hash(data._replace(labels=backwards, attrs={"x": 1})) == base


def test_unknown_bands_name_the_nearest(tmp_path, data):
    path = write_grid(tmp_path / "g.h5", data)
    with pytest.raises(GridError, match="no 'PS_rr' .nearest: PS_r"):
        read_grid(path, bands=["PS_g", "PS_rr"])
    with pytest.raises(GridError, match="listed twice"):
        read_grid(path, bands=["PS_g", "PS_g"])
    with pytest.raises(GridError, match="no bands"):
        read_grid(path, bands=[])


def one_line(error):
    return "\n" not in str(error.value) and len(str(error.value)) < 400


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no grid file at") as error:
        read_grid(tmp_path / "none.h5")
    assert isinstance(error.value, GridError) and one_line(error)


def test_files_that_are_no_grids(tmp_path, data):
    (tmp_path / "table.csv").write_text("mini,eep\n1.0,350\n")
    with pytest.raises(GridError, match="not a readable HDF5 file") as error:
        read_grid(tmp_path / "table.csv")
    assert one_line(error)
    whole = write_grid(tmp_path / "g.h5", data).read_bytes()
    (tmp_path / "half.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GridError, match="truncated") as error:
        read_grid(tmp_path / "half.h5")
    assert one_line(error)
    with h5py.File(tmp_path / "foreign.h5", "w") as f:
        f["flux"] = np.zeros(3)
    with pytest.raises(GridError, match="it holds flux, but neither `mag_coeffs`") as error:
        read_grid(tmp_path / "foreign.h5")
    assert one_line(error)
    with h5py.File(tmp_path / "flat.h5", "w") as f:
        f["mag_coeffs"] = np.zeros((3, 2, 3))
    with pytest.raises(GridError, match="one field of 3 numbers per band"):
        read_grid(tmp_path / "flat.h5")


def test_damaged_chunk(tmp_path, data):
    path = write_grid(tmp_path / "g.h5", data)
    with h5py.File(path) as f:
        where = f["mag_coeffs"].id.get_chunk_info(0)
    raw = bytearray(path.read_bytes())
    raw[where.byte_offset : where.byte_offset + where.size] = bytes(where.size)
    path.write_bytes(raw)
    with pytest.raises(GridError, match="is damaged"):
        read_grid(path)


@pytest.mark.parametrize("memmap", [False, True])
def test_nothing_left(tmp_path, data, memmap):
    path = write_grid(tmp_path / "g.h5", data._replace(mag=data.mag * np.float32(np.nan)))
    with pytest.raises(GridError, match="none of its .* models is both selected and finite"):
        read_grid(path, memmap=memmap)
    with pytest.raises(GridError, match="none of its"):
        read_grid(path, rows=slice(0, 0))
    with pytest.raises(GridError, match="models: "):
        read_grid(path, rows=[10**6])


def test_writing_is_all_or_nothing(tmp_path, data):
    path = write_grid(tmp_path / "g.h5", data)
    before = path.read_bytes()
    with pytest.raises(GridError, match="overwrite=True"):
        write_grid(path, data)
    with pytest.raises(TypeError):  # fails half way
        write_grid(path, data, overwrite=True, attrs={"bad": object()})
    assert path.read_bytes() == before
    assert [x.name for x in tmp_path.iterdir()] == ["g.h5"]
    with pytest.raises(GridError, match="cannot write"):
        write_grid(tmp_path / "no" / "such" / "g.h5", data)
    with pytest.raises(GridError, match="read-only or not a file"):
        write_grid(tmp_path, data, overwrite=True)


def test_read_only_target(tmp_path, data, monkeypatch):
    path = write_grid(tmp_path / "g.h5", data)
    monkeypatch.setattr("os.access", lambda *_: False)  # chmod does not stop every user
    with pytest.raises(GridError, match="read-only"):
        write_grid(path, data, overwrite=True)


def test_wrong_tables_are_not_written(tmp_path, data):
    for bad, message in [
        (data._replace(red=data.red[:, :2]), "red is"),
        (data._replace(labels={**data.labels, "loga": np.zeros(3)}), "label 'loga'"),
        (data._replace(axes=("mini", "Mr")), "axes Mr"),
    ]:
        with pytest.raises(GridError, match=message):
            write_grid(tmp_path / "g.h5", bad)
    with pytest.raises(GridError, match="layout is 'fits'"):
        write_grid(tmp_path / "g.h5", data, "fits")


def test_real_grid(shared):
    path = shared / "models" / "mist_small.h5"
    grid = read_grid(path, bands=["WISE_W1", "PS_g"], include_ms=False)
    assert grid.axes == ("mini", "eep", "feh", "afe", "smf")
    assert grid.attrs["band_system"] == ("Vega", "AB")
    with h5py.File(path) as f:
        evolved = f["labels"]["eep"] > 454
        assert len(f["labels"]) == 25486
        expected = f["mag_coeffs"]["WISE_W1"][evolved]
    np.testing.assert_array_equal(grid.mag[:, 0], expected[:, 0])
    np.testing.assert_array_equal(grid.dred[:, 0], expected[:, 2])
    other = read_grid(path, bands=["PS_g", "WISE_W1"], include_ms=False)
    assert grid_hash(other) != grid_hash(grid)  # the order of the bands counts
    assert grid_hash(read_grid(path, ["PS_g", "WISE_W1"], include_ms=False)) == grid_hash(other)
