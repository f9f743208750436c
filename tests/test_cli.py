"""The command line: what it makes, what it prints, and how it says no."""

import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.table import Table

import brutax
from brutax.catalog import read_stars
from brutax.cli import fit as fit_command
from brutax.cli import main, report
from brutax.cli.app import COMMANDS
from brutax.fitting import FitOptions, Output, fit_catalog
from brutax.models import StarGrid, Status, demo_grid

BANDS = ("PS_g", "PS_r", "PS_i", "2MASS_J", "2MASS_Ks")
N_STARS = 20
FAST = ("--effort", "low", "--batch-size", "8", "--draws", "50")  # one program for all tests


class Files:
    """A grid, a table, and a finished fit of it, made by the commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.grid = str(folder / "grid.h5")
        self.stars = str(folder / "mock.csv")
        self.output = str(folder / "posterior.h5")
        self.fit = ("fit", self.stars, "--grid", self.grid, *FAST)


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Files:
    made = Files(tmp_path_factory.mktemp("cli"))
    demo_grid(BANDS, n_mass=12, n_eep=16, n_feh=4).write(made.grid)
    mock = ("mock", "-g", made.grid, "-n", str(N_STARS), "-o", made.stars, "--missing", "0.1")
    assert main([*mock, "--coords", "120,20", "-q"]) == 0
    summary = ("--summary", str(made.folder / "summary.fits"))
    figure = ("--figure", str(made.folder / "dust.png"))
    assert main([*made.fit, "-o", made.output, *summary, *figure, "-q"]) == 0
    return made


def rejected(capsys, arguments, *words: str) -> None:
    """Exit code 2, and one line on stderr that says what was found."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    line = capsys.readouterr().err
    assert line.startswith("brutax: error: ") and line.count("\n") == 1 and line.endswith("\n")
    assert len(line) > 30 and "Traceback" not in line
    for word in words:
        assert word in line, line


def test_fit_writes_posteriors_summary_and_figure(files):
    result = brutax.load(files.output)
    assert len(result) == N_STARS and result.fitted.all() and result["model_idx"].shape[1] == 50
    summary = Table.read(files.folder / "summary.fits")
    assert np.array_equal(summary["source_id"], np.arange(1, N_STARS + 1))
    column = result.parameters.index("dist")
    middle = result["summary_quantiles"][:, column, result.levels.index(0.5)]
    assert np.allclose(summary["dist_median"], middle)
    assert (files.folder / "dust.png").stat().st_size > 10_000


def test_fit_without_draws(files, tmp_path, capsys):
    output, summary = tmp_path / "none.h5", tmp_path / "summary.csv"
    arguments = (*files.fit, "-o", str(output), "--draws", "0", "--summary", str(summary))
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(["info", str(output)]) == 0
    assert "no draws: summaries only" in capsys.readouterr().out
    assert np.allclose(
        Table.read(summary)["dist_median"], brutax.load(files.output).table()["dist_median"]
    )


def test_fit_in_half_precision(files, tmp_path, capsys):
    output = tmp_path / "half.h5"
    assert main([*files.fit, "-o", str(output), "--draw-dtype", "float16"]) == 0
    capsys.readouterr()
    assert main(["info", str(output)]) == 0
    assert "50 draws per star, distance, A_V and R_V in half" in capsys.readouterr().out
    single, half = (brutax.load(path)["av_samples"] for path in (files.output, output))
    assert np.allclose(single, half, rtol=2.0**-11, atol=1e-6) and (single != half).any()


def test_fit_is_that_of_the_library(files):
    grid = StarGrid.read(files.grid)
    options = FitOptions(effort="low", batch_size=8, draws=50)
    stars = brutax.read_stars(files.stars, grid.bands)
    result = fit_catalog(stars, grid, options, output=Output(verbose=False))
    assert np.array_equal(result["samps_dist"], brutax.load(files.output)["samps_dist"])


def test_finished_fit_reports_and_is_not_repeated(files, capsys):
    before = Path(files.output).read_bytes()
    assert main([*files.fit, "-o", files.output]) == 0
    out, err = capsys.readouterr()
    assert Path(files.output).read_bytes() == before and not err
    assert "PS_g from PS_g, error from PS_g_err" in out
    assert f"fitted {N_STARS} of {N_STARS} stars, {N_STARS} of them in earlier runs" in out
    assert "of memory" in out and files.output in out


@pytest.mark.parametrize("suffix", [".csv", ".ecsv", ".parquet", ".vot"])
def test_summary_in_every_format(files, suffix):
    path = files.folder / f"again{suffix}"
    assert main([*files.fit, "-o", files.output, "--summary", str(path), "-q"]) == 0
    form = {".csv": "ascii.csv", ".vot": "votable"}.get(suffix)
    table = Table.read(path, format=form)
    assert len(table) == N_STARS and {"av_p16", "flags"} <= set(table.colnames)
    assert not list(files.folder.glob("*.partial*"))


def test_interrupted_fit_goes_on(files, capsys, monkeypatch):
    """Ctrl-C after the first batch; the same command finishes with the same numbers."""
    output = files.folder / "interrupted.h5"
    shown = fit_command.progress_bar

    def stopped(counts, total, done):
        yield next(counts)
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_command, "progress_bar", stopped)
    assert main([*files.fit, "-o", str(output)]) == 130
    err = capsys.readouterr().err
    said = re.fullmatch(
        r"brutax: interrupted; (\d+) stars are saved, run the same command to continue\n", err
    )
    assert said and 0 < int(said[1]) < N_STARS
    monkeypatch.setattr(fit_command, "progress_bar", shown)
    assert main([*files.fit, "-o", str(output), "-q"]) == 0
    one, other = brutax.load(output), brutax.load(files.output)
    assert np.array_equal(one["samps_dist"], other["samps_dist"])


def test_quiet_is_silent(files, capsys):
    assert main([*files.fit, "-o", files.output, "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_rows_and_identifiers(files):
    output = files.folder / "some.h5"
    options = ("--rows", "4:12", "--id", "row", "-q")
    assert main([*files.fit, "-o", str(output), *options]) == 0
    assert np.array_equal(brutax.load(output)["source_id"], np.arange(4, 12))


def test_another_table_with_map_units_and_bands(files, capsys):
    """Fluxes in maggies under other names, a parallax in arcsec, give the same posteriors."""
    table = Table.read(files.stars)
    stars = read_stars(files.stars, BANDS)
    for i, band in enumerate(BANDS):
        table[f"f{i}"], table[f"s{i}"] = stars.flux[:, i], stars.flux_err[:, i]
        table.remove_columns([band, f"{band}_err"])
    table["w"] = np.asarray(table["parallax"]) / 1000
    table["w_err"] = np.asarray(table["parallax_err"]) / 1000
    table.remove_columns(["parallax", "parallax_err"])
    path, output = files.folder / "other.csv", files.folder / "other.h5"
    table.write(path, format="ascii.csv")
    columns = [f"{band}=f{i},{band}_err=s{i}" for i, band in enumerate(BANDS)]
    options = [x for text in [*columns, "parallax=w"] for x in ("--map", text)]
    options += ["--units", "maggies", "--units", "parallax=arcsec,parallax_err=arcsec"]
    options += ["--bands", ",".join(BANDS), "-q"]
    arguments = ["fit", str(path), "-g", files.grid, "-o", str(output), *FAST, *options]
    assert main(arguments) == 0, capsys.readouterr().err
    ours, theirs = brutax.load(output), brutax.load(files.output)
    assert np.allclose(ours["summary_mean"], theirs["summary_mean"], rtol=1e-3)


def test_refuses_to_mix_two_fits(files, capsys):
    rejected(capsys, [*files.fit, "-o", files.output, "--seed", "1"], "another fit", "seed was 0")
    rejected(capsys, [*files.fit, "-o", files.output, "--av", "0,5"], "priors", "overwrite")


@pytest.mark.parametrize(
    "options, words",
    [
        (["--units", "maggies"], ["magnitudes", "units='mag'"]),
        (["--units", "parallax=parsec"], ["parsec"]),
        (["--units", "parallax=deg", "--units", "parallax_err=deg"], ["another unit?"]),
        (["--units", "mag,maggies"], ["one unit"]),
        (["--units", "paralax=mas"], ["paralax", "parallax"]),
        (["--bands", "PS_g,PS_q"], ["no", "'PS_q'", "PS_g"]),
        (["--map", "PS_g=nothing"], ["nothing", "lacks"]),
        (["--map", "PS_g"], ["not a pair"]),
        (["--av", "3,0"], ["av must be", "increasing"]),
        (["--av", "3"], ["no prior", "LOW,HIGH"]),
        (["--av=-1,3"], ["negative extinction"]),
        (["--rv", "4,4"], ["rv must be", "increasing"]),
        (["--avlim", "0,3"], ["--avlim is now --av LOW,HIGH"]),
        (["--n-draws=5"], ["--n-draws is now --draws"]),
        (["--av", "normal:1,0"], ["standard deviation must be positive"]),
        (["--draws", "-1"], ["draws"]),
        (["--draws", "0", "--figure", "x.png"], ["--figure", "--draws 0"]),
        (["--draw-dtype", "float8"], ["--draw-dtype", "float16"]),
        (["--batch-size", "0"], ["batch_size"]),
        (["--method", "magic"], ["--method", "magic", "reference"]),
        (["--error-floor", "-1"], ["error_floor"]),
        (["--offsets", "nowhere.txt"], ["nowhere.txt"]),
        (["--rows", "50:60"], ["none"]),
        (["--rows", "a:b"], ["not a range"]),
        (["--id", "name"], ["'name'", "lacks"]),
        (["--dataset", "x"], []),
        (["--summary", "x.docx"], ["x.docx", ".fits"]),
        (["--figure", "x.docx"], ["x.docx", "png"]),
        (["--summary", "no/such/folder/x.csv"], ["folder", "does not exist"]),
        (["--frobnicate"], ["--frobnicate", "--help"]),
    ],
)
def test_bad_options(files, capsys, tmp_path, options, words):
    output = tmp_path / "never.h5"
    rejected(capsys, [*files.fit, "-o", output, *options], *words)
    assert not output.exists()


def test_bad_tables(files, tmp_path, capsys):
    def tried(name: str, text: str | bytes, *words: str) -> None:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        output = tmp_path / "never.h5"
        rejected(capsys, ["fit", path, "-g", files.grid, "-o", output, *FAST], *words)

    row = "20.0,0.02,19.5,0.02,19.1,0.02"
    head = "PS_g,PS_g_err,PS_r,PS_r_err,PS_i,PS_i_err"
    tried("empty.csv", f"{head}\n", "zero rows")
    tried("nothing.csv", "")
    tried("columns.csv", "a,b\n1,2\n", "no photometry recognised", "a, b")
    tried("no_error.csv", "PS_g\n20.0\n", "no error column", "PS_g_err")
    tried("twice.csv", f"source_id,{head}\n7,{row}\n7,{row}\n", "7")
    tried("words.csv", f"{head}\nx,0.02,y,0.02,z,0.02\n", "not numeric")
    tried("broken.fits", b"SIMPLE  =                    T", "broken.fits")
    tried("broken.parquet", b"PAR1 but not really")
    tried("broken.h5", b"\x89HDF\r\n\x1a\n and then nothing", "broken.h5")
    tried("flux.csv", f"{head}\n1e-8,1e-10,2e-8,1e-10,1e-8,1e-10\n1e-9,1e-10,1e-9,1e-10,20,0.1\n")
    tried("what.docx", "hello")
    rejected(
        capsys, ["fit", tmp_path / "no.csv", "-g", files.grid, "-o", tmp_path / "x.h5"], "no.csv"
    )
    bands = ("--bands", "PS_g,2MASS_J")
    (tmp_path / "few.csv").write_text(f"{head}\n{row}\n")
    few = ["fit", tmp_path / "few.csv", "-g", files.grid, "-o", tmp_path / "x.h5", *bands]
    rejected(capsys, few, "2MASS_J")


def test_bad_grids(files, tmp_path, capsys):
    def tried(path: Path, *words: str) -> None:
        output = tmp_path / "never.h5"
        rejected(capsys, ["fit", files.stars, "-g", path, "-o", output, *FAST], *words)

    whole = Path(files.grid).read_bytes()
    (tmp_path / "truncated.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.h5").write_text("not a grid")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["spectra"] = np.zeros(3)
    tried(tmp_path / "truncated.h5", "truncated")
    tried(tmp_path / "text.h5", "not a readable HDF5 file")
    tried(tmp_path / "foreign.h5", "not a grid file", "spectra")
    tried(tmp_path / "missing.h5", "no grid file")
    tried(tmp_path)


def test_bad_outputs(files, tmp_path, capsys):
    def tried(path: Path, *words: str) -> None:
        rejected(capsys, [*files.fit, "-o", path], *words)

    whole = Path(files.output).read_bytes()
    (tmp_path / "truncated.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.h5").write_text("my thesis")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["spectra"] = np.zeros(3)
    (tmp_path / "folder.h5").mkdir()
    tried(tmp_path / "no" / "such.h5", "folder", "does not exist")
    tried(tmp_path / "folder.h5", "folder.h5")
    tried(tmp_path / "truncated.h5", "truncated")
    tried(tmp_path / "text.h5", "not an HDF5 file")
    tried(tmp_path / "foreign.h5", "not written by brutax")
    assert (tmp_path / "text.h5").read_text() == "my thesis"
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        tried(tmp_path / "locked" / "x.h5", "read-only")


def test_bad_mocks(files, capsys):
    mock = ["mock", "-g", files.grid]
    rejected(capsys, [*mock, "-o", files.stars], "exists", "--overwrite")
    rejected(capsys, [*mock, "-o", "x.csv", "--mag-limit", "PS_r"], "PS_r,19")
    rejected(capsys, [*mock, "-o", "x.csv", "--error", "2"], "no flux turns negative")
    rejected(capsys, [*mock, "-o", "x.txt"], ".csv")


def test_usage(capsys):
    rejected(capsys, [], "COMMAND")
    rejected(capsys, ["fit"], "stars")
    rejected(capsys, ["mock", "-o", "x.csv"], "--grid", "--bands")
    rejected(capsys, ["frobnicate"], "frobnicate")
    for command in ("fit", "offsets", "mock", "grid", "data", "info", "demo"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        out = capsys.readouterr().out
        assert stop.value.code == 0 and f"example:\n  brutax {command} " in out
    with pytest.raises(SystemExit):
        main(["--help"])
    assert capsys.readouterr().out.count("\n  brutax ") == len(COMMANDS)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"brutax {brutax.__version__}\n"


def test_debug_shows_the_traceback(files, monkeypatch):
    monkeypatch.setenv("BRUTAX_DEBUG", "1")
    with pytest.raises(ValueError, match="av must be"):
        main([*files.fit, "-o", str(files.folder / "never.h5"), "--av", "3,0"])


def test_info(files, capsys, tmp_path):
    def told(*arguments: str) -> str:
        assert main(["info", *arguments]) == 0
        out, err = capsys.readouterr()
        assert not err
        return out

    grid = told(files.grid)
    assert "grid of models" in grid and "2MASS_Ks" in grid and "16 values" in grid
    assert "NOT for science" in grid and "loga" in grid
    posterior = told(files.output)
    assert f"posteriors of {N_STARS} stars" in posterior and "50 draws per star" in posterior
    assert "not finished" not in posterior and "seed: 0" in posterior
    assert "PS_g from PS_g" in posterior
    stars = told(files.stars)
    assert f"table of {N_STARS} stars" in stars and f"{N_STARS} parallaxes" in stars
    assert "40 values" in told("demo")
    rejected(capsys, ["info", tmp_path / "no.h5"], "no.h5", "no such file")
    rejected(capsys, ["info", tmp_path], "folder")
    (tmp_path / "x.h5").write_text("hello")
    rejected(capsys, ["info", tmp_path / "x.h5"], "not an HDF5 file")


def test_every_flag_is_explained():
    assert set(report.MEANINGS) == {flag for flag in Status if flag}
    lines = report.flag_lines(np.array([0, 8, 8 | 256]))
    assert [line.split()[:2] for line in lines] == [["NO_COORDINATES", "2"], ["EXTENDED", "1"]]
    assert report.fitted(np.array([0, 1, 512, 64])) == 2


@pytest.mark.parametrize(
    "seconds, text", [(3.21, "3.2 s"), (75, "1 min 15 s"), (3661, "1 h 01 min"), (59.97, "60.0 s")]
)
def test_durations(seconds, text):
    assert report.duration(seconds) == text


def run(*arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "brutax.cli", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **options)


def test_processes(files, tmp_path):
    """A refusal and a closed pipe, seen from a shell."""
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    refused = run("fit", files.stars, "-g", "nowhere.h5", "-o", "x.h5", env=env)
    closed = run("info", "demo", env=env)
    with closed, closed.stderr:
        closed.stdout.close()
        assert closed.stderr.read() == "" and closed.wait() == 141
    out, err = refused.communicate()
    assert (refused.returncode, out, err) == (2, "", "brutax: error: no grid file at nowhere.h5\n")


@pytest.mark.slow
def test_demo(tmp_path):
    """From nothing to a figure; compiled programs stay in the user's cache."""
    ours = ("JAX_COMPILATION_CACHE_DIR", "BRUTAX_CACHE", "BRUTAX_DATA_DIR")
    env = {k: v for k, v in os.environ.items() if k not in ours}
    env["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    demo = run("demo", "-o", str(tmp_path / "demo"), "-n", "5", env=env)
    out, err = demo.communicate()
    assert demo.returncode == 0, err
    assert "fitted 5 of 5 stars" in out and "building the default grid" in out
    made = sorted(path.name for path in (tmp_path / "demo").iterdir())
    assert made == ["mock.csv", "posterior.h5", "recovery.png", "summary.ecsv"]
    assert len(Table.read(tmp_path / "demo" / "summary.ecsv")) == 5
    for folder in ("jax", "programs", "grids"):
        assert any((tmp_path / "cache" / "brutax" / folder).iterdir())
