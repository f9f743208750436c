"""Programs and tiles kept for later processes: the same answers, and never those of others."""

import logging
import threading
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brutax.cache import files
from brutax.cache.programs import Stages, _key, describe
from brutax.fitting import ModelPrior
from brutax.fitting import prepare as setup
from brutax.priors import UniformAv

TRACED: list[str] = []


class State(NamedTuple):
    total: Any
    parts: tuple


def first(_: None, inputs: dict, settings: int) -> State:
    TRACED.append("first")
    total = jnp.sum(inputs["x"]) * settings
    return State(total, (inputs["x"] + 1.0, inputs["prior"].high))


def second(state: State, inputs: dict, settings: str) -> dict:
    TRACED.append("second")
    return {settings: state.total + state.parts[1], "more": state.parts[0] * inputs["x"]}


def call(x: Any, settings: tuple = (2, "sum"), prior: Any = None) -> dict:
    """As a new process would."""
    TRACED.clear()
    return Stages(first, second)({"x": x, "prior": prior or UniformAv(0.0, 6.0)}, settings)


@pytest.fixture
def kept(tmp_path):
    """A folder where programs are kept."""
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path / "brutax"
    jax.config.update("jax_compilation_cache_dir", before)


def assert_right(out: dict, x: Any, name: str = "sum", factor: int = 2) -> None:
    assert set(out) == {name, "more"}
    np.testing.assert_allclose(out[name], factor * np.sum(x) + 6.0)
    np.testing.assert_allclose(out["more"], (x + 1.0) * x)


def test_a_later_process_neither_traces_nor_compiles(kept):
    x = np.arange(3.0)
    assert_right(call(x), x)
    assert TRACED == ["first", "second"]
    later = call(x + 1.0)
    assert TRACED == []
    assert_right(later, x + 1.0)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(later))


def test_what_a_program_depends_on_names_it(kept):
    x = np.arange(3.0)
    call(x)
    assert_right(call(np.arange(4.0)), np.arange(4.0))  # shape
    assert TRACED == ["first", "second"]
    assert_right(call(x, (2, "other")), x, "other")
    assert TRACED == ["second"]  # settings
    assert_right(call(x, (3, "sum")), x, factor=3)
    assert TRACED == ["first"]
    for traced in (["first", "second"], []):  # loaded the second time
        with jax.enable_x64(not jax.config.read("jax_enable_x64")):
            assert_right(call(x), x)
        assert TRACED == traced
    call(x)
    assert TRACED == []


def test_arguments_that_are_not_used_have_shapes_too(kept):
    def stage(_: None, inputs: dict, settings: int) -> Any:
        return inputs["x"] * settings

    for size in (3, 4):
        out = Stages(stage)({"x": np.arange(2.0), "unused": np.zeros(size)}, (2,))
        np.testing.assert_array_equal(out, [0.0, 2.0])


def test_code_that_changes_nothing_needs_no_compilation(kept, monkeypatch):
    x = np.arange(3.0)
    call(x)
    programs = {path: path.stat().st_mtime_ns for path in kept.glob("*.program")}
    monkeypatch.setattr(files, "code", lambda: "the same in other words")
    assert_right(call(x), x)
    assert TRACED == ["first", "second"]
    assert {path: path.stat().st_mtime_ns for path in kept.glob("*.program")} == programs
    call(x)
    assert TRACED == []


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_damaged_files_are_made_again(kept, caplog, damage):
    x = np.arange(3.0)
    call(x)
    for path in kept.glob("*.program"):
        path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    with caplog.at_level(logging.WARNING, "brutax"):
        assert_right(call(x), x)
    assert bool(caplog.records) == (damage != b"")
    call(x)
    assert TRACED == []


def test_nothing_is_kept_without_a_folder_nor_inside_other_programs(kept):
    x = jnp.arange(3.0)
    assert_right(jax.jit(call)(x), x)
    with jax.disable_jit():
        assert_right(call(x), x)
    jax.config.update("jax_compilation_cache_dir", None)
    assert_right(call(x), x)
    assert not kept.exists()


def test_programs_for_another_device_than_the_first_are_not_kept(kept):
    inputs = {"x": np.arange(3.0)}
    for device, is_kept in ((jax.local_devices()[0], True), ("cpu", True), ("tpu", False)):
        with jax.default_device(device):
            assert (_key(inputs) is not None) == is_kept


def test_code_from_elsewhere_is_not_kept(kept):
    """A class or function of the user's may change without its name changing."""

    class Own(UniformAv):
        pass

    x = np.arange(3.0)
    assert_right(call(x, prior=Own(0.0, 6.0)), x)
    assert not kept.exists()
    for value in (Own(0.0, 6.0), np.sin, {"f": lambda: None}, object()):
        with pytest.raises(TypeError, match="not a class of brutax"):
            describe(value)
    assert describe(UniformAv(0.0, 6.0)) == describe(UniformAv(1.0, 2.0))  # arrays: only their kind
    assert describe({"a": 1}) != describe({"a": 2})


def test_threads_share_one_program_and_settings_of_jax_are_put_back(kept):
    stages, inputs = Stages(first, second), {"x": np.arange(3.0), "prior": UniformAv(0.0, 6.0)}
    before = dict(jax.config.values)
    TRACED.clear()
    out = []
    threads = [
        threading.Thread(target=lambda: out.append(stages(inputs, (2, "sum")))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(out) == 4 and TRACED == ["first", "second"]
    assert dict(jax.config.values) == before
    for one in out:
        assert_right(one, inputs["x"])


def test_what_cannot_be_kept_is_said(tmp_path, caplog):
    (tmp_path / "brutax").write_text("a file in the way")
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        with caplog.at_level(logging.WARNING, "brutax"):
            assert_right(call(np.arange(3.0)), np.arange(3.0))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert "cannot keep" in caplog.text


def test_tiles_come_back_as_they_were(kept, small_grid, caplog, monkeypatch):
    def ready(**options: Any) -> setup.ReadyModels:
        setup._ready.clear()
        return setup.ready_models(small_grid, ModelPrior(**options))

    fresh = ready()
    with monkeypatch.context() as patch:
        patch.setattr(setup, "tile_grid", None)  # not called again
        again = ready()
    for a, b in zip(jax.tree.leaves(fresh), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert eqx.tree_equal(fresh.models, again.models)
    other = ready(age_weight=False)  # of other priors
    assert not np.array_equal(other.log_prior, fresh.log_prior)
    for path in kept.glob("*.npz"):
        path.write_bytes(path.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING, "brutax"):
        third = ready()
    assert "made again" in caplog.text
    assert eqx.tree_equal(fresh.models, third.models)
    setup._ready.clear()
