"""What `tools/house.py` measures stays good."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools/house.py"


@pytest.fixture(scope="module")
def house():
    if not SCRIPT.is_file():
        pytest.skip("the tools are not here")
    spec = importlib.util.spec_from_file_location("house", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_doors_are_narrow(house):
    doors = house.doors()
    assert {"brutax.fit", "brutax.read_stars", "brutax.load"} <= set(doors)
    wide = {name for name, count in doors.items() if count > 12}
    assert wide <= {"brutax.star.problem"}  # one star, whose data are arguments


def test_what_is_counted(house, tmp_path):
    import ast

    source = "def f(self, a: Any, b: 'Any | None', c: dict[str, Any], *d: int, e=1, **g: Any): ..."
    (function,) = ast.parse(source).body
    given = [x for x in house.arguments(function) if x.annotation is not None]
    assert [x.arg for x in given if house.is_any(x.annotation)] == ["a", "b", "g"]
    assert len(given) == 5
    path = tmp_path / "one.py"
    path.write_text('"""Fluxes over their errors; `seen`."""\n# the deviation, seen\nx = "told"\n')
    found = [
        word
        for _, text in house.prose(path)
        for word, pattern in house.WORDS.items()
        if house.re.search(pattern, text, house.re.IGNORECASE)
    ]
    assert sorted(found) == ["deviation (standard deviation)", "over (divided by)", "seen"]


def test_arguments_have_types(house):
    assert house.share(house.any_shares(), house.NARROW) < 0.10


def test_exported_names_are_documented(house):
    assert [export.name for export in house.exports() if not export.documented] == []
