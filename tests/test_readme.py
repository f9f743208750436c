"""The README and the pages of docs/ say what was measured, and their programs run."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from brutax.cli import main
from brutax.models.grid import default

ROOT = Path(__file__).parents[1]
BANDS = ("PS_g", "PS_i", "2MASS_J", "2MASS_Ks")


def programs(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_table_is_that_of_the_results():
    script = ROOT / "benchmarks/table.py"
    if not script.is_file():
        pytest.skip("the benchmarks are not here")
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 70


def test_links_lead_somewhere():
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")):
        for link in re.findall(r"\]\(([^)#]+)", path.read_text()):
            if "://" not in link:
                assert (path.parent / link).exists(), f"{path.name}: {link}"


@pytest.fixture
def table_of_stars(monkeypatch, tmp_path):
    """A folder with `stars.csv`, in bands for which a small default grid is built."""
    monkeypatch.setattr(default, "MINI", np.round(np.geomspace(0.3, 1.6, 16), 4))
    monkeypatch.setattr(default, "EEP", np.arange(202.0, 500.0, 20.0))
    monkeypatch.setattr(default, "FEH", np.array([-1.0, -0.5, 0.0]))
    monkeypatch.setenv("BRUTAX_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    main(["mock", "--bands", ",".join(BANDS), "-n", "5", "-o", "stars.csv", "--quiet"])
    return tmp_path


def test_the_ten_lines_run(table_of_stars, capsys):
    (program,) = programs("README.md")
    names: dict = {}
    exec(program, names)
    assert len(names["again"]) == 5 and (table_of_stars / "posterior.h5").is_file()
    assert names["one"]["mini_samples"].shape == names["result"]["av_samples"].shape[1:]


def test_programs_about_models_run():
    names: dict = {}
    for program in programs("docs/models.md"):
        exec(program, names)
    assert names["sed"].shape[-1] == 2
