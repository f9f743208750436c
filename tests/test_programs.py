"""Programs and tiles kept for later processes: the same answers, and never those of others."""

import logging
import os
import threading
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brutax.cache import files, programs
from brutax.cache.programs import Stages, _descriptions, describe
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
    inputs = {"x": x, "prior": prior or UniformAv(0.0, 6.0)}
    return Stages(first, second)((inputs, inputs), settings)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A folder where programs are kept."""
    monkeypatch.setenv("BRUTAX_CACHE", str(tmp_path / "programs"))
    return tmp_path / "programs"


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
        out = Stages(stage)(({"x": np.arange(2.0), "unused": np.zeros(size)},), (2,))
        np.testing.assert_array_equal(out, [0.0, 2.0])


def test_code_that_changes_nothing_needs_no_compilation(kept, monkeypatch):
    x = np.arange(3.0)
    call(x)
    programs = {path: path.stat().st_ino for path in kept.glob("*.program")}
    monkeypatch.setattr(files, "code", lambda: "the same in other words")
    assert_right(call(x), x)
    assert TRACED == ["first", "second"]
    assert {path: path.stat().st_ino for path in kept.glob("*.program")} == programs
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


@pytest.mark.parametrize("off", ["off", "0", "No"])
def test_nothing_is_kept_where_it_is_off_nor_inside_other_programs(kept, monkeypatch, off):
    x = jnp.arange(3.0)
    assert_right(jax.jit(call)(x), x)
    with jax.disable_jit():
        assert_right(call(x), x)
    monkeypatch.setenv("BRUTAX_CACHE", off)
    assert_right(call(x), x)
    assert not kept.exists() and files.folder() is None


def test_programs_for_another_device_than_the_first_are_not_kept(kept):
    inputs = {"x": np.arange(3.0)}
    for device, is_kept in ((jax.local_devices()[0], True), ("cpu", True), ("tpu", False)):
        with jax.default_device(device):
            assert (_descriptions([inputs]) is not None) == is_kept


class Own(UniformAv):
    """A prior of A_V of the user's own."""


def test_code_from_elsewhere_is_kept_in_this_process_only(kept):
    """A class or function of the user's may change without its name changing."""
    x = np.arange(3.0)
    stages, inputs = Stages(first, second), {"x": x, "prior": Own(0.0, 6.0)}
    rest = {"x": x, "prior": UniformAv(0.0, 6.0)}  # of the second stage, which has nothing of Own
    for traced in (["first", "second"], []):
        TRACED.clear()
        assert_right(stages((inputs, rest), (2, "sum")), x)
        assert TRACED == traced
    assert len(list(kept.glob("*.program"))) == 1
    TRACED.clear()
    assert_right(Stages(first, second)((inputs, rest), (2, "sum")), x)  # another process
    assert TRACED == ["first"]  # only what contains it
    for value in (Own(0.0, 6.0), np.sin, {"f": lambda: None}, object()):
        with pytest.raises(TypeError, match="not a class of brutax"):
            describe(value)
    assert describe(UniformAv(0.0, 6.0)) == describe(UniformAv(1.0, 2.0))  # arrays: only their kind
    assert describe({"a": 1}) != describe({"a": 2})


def test_another_function_of_the_users_is_another_program(kept):
    x = np.arange(3.0)
    stages = Stages(lambda _, inputs, __: inputs["f"](inputs["x"]))
    for function in (np.sin, jnp.cos, jnp.sin):
        TRACED.clear()
        f = {np.sin: jnp.tan}.get(function, function)
        np.testing.assert_allclose(stages(({"x": x, "f": f},), (None,)), f(x), rtol=1e-6)
    assert not kept.exists()


def test_what_jax_no_longer_has_is_done_without(kept, monkeypatch, caplog):
    """Other versions of JAX: plain compilation, one warning, the same answers."""

    def gone() -> Any:
        raise AttributeError("jax.config has no 'values'")

    x = np.arange(3.0)
    monkeypatch.setattr(files, "circumstances", gone)
    monkeypatch.setattr(programs, "_lacking", [])
    with caplog.at_level(logging.WARNING, "brutax"):
        assert_right(call(x), x)
        assert_right(call(x + 1.0), x + 1.0)
    assert len(caplog.records) == 1 and "no 'values'" in caplog.text
    assert not kept.exists()


@pytest.mark.parametrize("name", ["serialize", "deserialize_and_load"])
def test_programs_that_cannot_be_written_or_read_are_compiled(kept, monkeypatch, name):
    def refuse(*_: Any) -> Any:
        raise TypeError("takes other arguments")

    x = np.arange(3.0)
    if name != "serialize":
        call(x)
    module = programs._serialize_executable()
    monkeypatch.setattr(module, name, refuse)
    assert_right(call(x), x)
    assert bool(list(kept.glob("*.program"))) == (name != "serialize")


@pytest.mark.parametrize("prior", [UniformAv, Own])
def test_our_programs_stay_out_of_the_cache_of_jax(kept, monkeypatch, prior):
    """One that was read from there could not be kept: it has lost its code (jaxlib 0.10)."""
    option, seen = "jax_persistent_cache_min_compile_time_secs", []
    compile_ = jax.stages.Lowered.compile

    def spied(self: Any, *args: Any, **options: Any) -> Any:
        seen.append(jax.config.values[option])
        return compile_(self, *args, **options)

    monkeypatch.setattr(jax.stages.Lowered, "compile", spied)
    x = np.arange(3.0)
    assert_right(call(x, prior=prior(0.0, 6.0)), x)
    assert seen == [float("inf")] * 2
    assert jax.config.values[option] < 1.0


def test_an_error_of_a_stage_is_raised_as_it_is(kept, monkeypatch):
    def wrong(_: None, inputs: dict, __: None) -> Any:
        raise TypeError("a mistake of the user's")

    monkeypatch.setattr(programs, "_lacking", [])
    with pytest.raises(TypeError, match="a mistake of the user's"):
        Stages(wrong)(({"x": np.arange(3.0)},), (None,))
    assert not programs._lacking  # nothing is wrong with JAX


def test_the_folder_is_ours_and_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.delenv("BRUTAX_CACHE", raising=False)
    monkeypatch.setenv("BRUTAX_DATA_DIR", str(tmp_path))
    place = tmp_path / "programs"
    assert files.folder() == place
    monkeypatch.setattr(files, "LIMIT", 1000)
    for k in range(10):  # the tenth goes beyond the limit
        files.write(f"{k}.program", bytes(110))
        os.utime(place / f"{k}.program", (k, k)) if k < 9 else None
        if k == 8:
            assert files.read("0.program") == bytes(110)  # used: not the oldest any more
            (place / "old.part").touch()
            os.utime(place / "old.part", (0, 0))
            (place / "new.part").touch()
    left = {path.name for path in place.iterdir()}
    assert left == {"0.program", "new.part", *(f"{k}.program" for k in range(4, 10))}
    assert files.read("1.program") is None


def test_others_may_clean_at_the_same_time(tmp_path, monkeypatch):
    monkeypatch.setenv("BRUTAX_CACHE", str(tmp_path))
    monkeypatch.setattr(files, "LIMIT", 2000)
    errors = []

    def work(number: int) -> None:
        try:
            for k in range(50):
                content = bytes([number]) * 100
                files.write(f"{k}.program", content)
                found = files.read(f"{k}.program")
                assert found is None or len(set(found)) == 1 and len(found) == 100
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2000


def test_threads_share_one_program_and_settings_of_jax_are_put_back(kept):
    stages, inputs = Stages(first, second), {"x": np.arange(3.0), "prior": UniformAv(0.0, 6.0)}
    before = dict(jax.config.values)
    TRACED.clear()
    out = []
    threads = [
        threading.Thread(target=lambda: out.append(stages((inputs, inputs), (2, "sum"))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(out) == 4 and TRACED == ["first", "second"]
    assert dict(jax.config.values) == before
    for one in out:
        assert_right(one, inputs["x"])


def test_what_cannot_be_kept_is_said(tmp_path, caplog, monkeypatch):
    (tmp_path / "programs").write_text("a file in the way")
    monkeypatch.setenv("BRUTAX_CACHE", str(tmp_path / "programs"))
    with caplog.at_level(logging.WARNING, "brutax"):
        assert_right(call(np.arange(3.0)), np.arange(3.0))
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
