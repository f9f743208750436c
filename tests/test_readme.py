"""The README says what was measured."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_table_is_that_of_the_results():
    script = ROOT / "benchmarks/table.py"
    if not script.is_file():
        pytest.skip("the benchmarks are not here")
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
