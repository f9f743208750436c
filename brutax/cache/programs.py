"""Functions in several stages, whose compiled programs are kept for later processes.

Tracing, lowering and compiling the fit of one star takes many times as long as the fit. JAX's cache
saves compilation only. Here the executables themselves are kept (`brutax.cache.files`) under names
made from everything that they depend on, so that a later process neither traces nor lowers. The
files are pickles and, like those of JAX's own cache, trusted: whoever can write into the folder can
run code as its user.
"""

import dataclasses
import logging
import pickle
import threading
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.core
import numpy as np
from jax.experimental import serialize_executable

from brutax.cache import files

log = logging.getLogger("brutax")

# types whose values a program may depend on by their `repr`
PLAIN = (bool, int, float, complex, str, bytes, type(None), np.dtype)


_known: weakref.WeakSet["Stages"] = weakref.WeakSet()


def forget() -> None:
    """Drops the programs of this process from memory, as `jax.clear_caches` does with JAX's own."""
    for stages in _known:
        stages.ready.clear()


class Stages:
    """Functions called one after the other, each as `stage(state, inputs, setting)`.

    `state` is the value of the stage before, None for the first; `inputs` a pytree that all stages
    get; `settings` has one hashable value for each stage. Inputs and setting must determine the
    program, including the shapes of the state. A stage is a pure function of module level whose
    value is made of arrays, tuples and named tuples.
    """

    def __init__(self, *stages: Callable) -> None:
        self.stages = stages
        self.jitted = [eqx.filter_jit(stage) for stage in stages]
        self.ready: dict[tuple, _Program] = {}
        self.lock = threading.Lock()
        _known.add(self)

    def __call__(self, inputs: Any, settings: Sequence[Any]) -> Any:
        return deque(self.each(inputs, settings), maxlen=1).pop()

    def each(self, inputs: Any, settings: Sequence[Any]) -> Iterator[Any]:
        """The value of each stage; all but the last as lists of arrays without their structure."""
        key = _key(inputs)
        if key is None:  # compiled and kept by JAX
            state = None
            for stage, setting in zip(self.jitted, settings, strict=True):
                state = stage(state, inputs, setting)
                yield state
            return
        dynamic, static = eqx.partition(inputs, _is_array)
        leaves, tree = jax.tree.flatten(dynamic)
        keys = [(key, k, setting) for k, setting in enumerate(settings)]
        programs = [self.ready.get(key) for key in keys]
        if not all(programs):
            with self.lock:
                programs = self._programs(keys, inputs, _Inputs(leaves, tree, static))
        state = []
        for program in programs[:-1]:
            state = program.compiled(*state, *leaves)
            yield state
        last = programs[-1]
        yield jax.tree.unflatten(last.outcome.tree, last.compiled(*state, *leaves))

    def _programs(self, keys: list[tuple], inputs: Any, flat: "_Inputs") -> list["_Program"]:
        """The programs of some keys: from memory, from the cache, or new."""
        basis = (describe(inputs), files.code(), files.circumstances())
        missing = {
            key: files.name_of(stage.__module__, stage.__qualname__, key[-1], basis)
            for stage, key in zip(self.stages, keys, strict=True)
            if key not in self.ready
        }
        with ThreadPoolExecutor(len(keys)) as pool:
            found = zip(missing, pool.map(_load, missing.values()))
            self.ready |= {key: program for key, program in found if program}
            last, waiting = _Outcome((), None), {}
            for stage, key in zip(self.stages, keys, strict=True):
                if key in self.ready:
                    last = self.ready[key].outcome
                    continue
                function = _Flat(stage, last, flat, key[-1])
                lowered = jax.jit(function).lower(*last.shapes, *flat.leaves)
                shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in lowered.out_info)
                last = _Outcome(shapes, function.tree)
                # compiles while the next one is traced
                waiting[key] = pool.submit(
                    _compiled, missing[key], lowered, last, str(lowered.in_avals)
                )
            self.ready |= {key: program.result() for key, program in waiting.items()}
        return [self.ready[key] for key in keys]


class _Inputs(NamedTuple):
    """The inputs as a flat list of arrays, their structure, and what is not an array."""

    leaves: list[Any]
    tree: Any
    static: Any


class _Outcome(NamedTuple):
    """Shapes and structure of the arrays that a program returns."""

    shapes: tuple[jax.ShapeDtypeStruct, ...]
    tree: Any


class _Program(NamedTuple):
    """An executable from flat arrays to flat arrays."""

    compiled: Any
    outcome: _Outcome


class _Flat:
    """A stage as a function of the leaves of its arguments."""

    def __init__(self, stage: Callable, state: _Outcome, inputs: _Inputs, setting: Any) -> None:
        self.stage, self.state, self.inputs, self.setting = stage, state, inputs, setting
        self.__name__ = f"{stage.__name__}_kept"
        self.tree = None  # of the value, known once it was called

    def __call__(self, *leaves: Any) -> list[Any]:
        n = len(self.state.shapes)
        state = jax.tree.unflatten(self.state.tree, leaves[:n]) if n else None
        dynamic = jax.tree.unflatten(self.inputs.tree, leaves[n:])
        inputs = eqx.combine(dynamic, self.inputs.static)
        out, self.tree = jax.tree.flatten(self.stage(state, inputs, self.setting))
        return out


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _key(inputs: Any) -> str | None:
    """A key of a program within this process; None where it must not be kept.

    Not kept are programs that are traced as part of others, those for one of several devices, and
    those with classes from outside the package, whose code the name of a file does not include.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(inputs)):
        return None
    eager = jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    elsewhere = device is not None and device not in (jax.local_devices()[0], jax.default_backend())
    if files.folder() is None or eager or elsewhere or len(jax.local_devices()) > 1:
        return None
    try:
        return repr((describe(inputs), bool(jax.config.read("jax_enable_x64"))))
    except TypeError as error:
        log.debug("programs are not kept: %s", error)
        return None


def describe(value: Any) -> Any:
    """What a program can depend on in a pytree: types, static values, shapes and dtypes of arrays.

    Raises `TypeError` for functions and for classes from outside the package, whose code may change
    while their names do not.
    """
    if isinstance(value, jax.Array):
        return ("array", value.shape, str(value.dtype), bool(value.aval.weak_type))
    if isinstance(value, np.ndarray | np.generic):
        return ("array", value.shape, str(jax.dtypes.canonicalize_dtype(value.dtype)), False)
    kind = type(value)
    if kind in PLAIN or isinstance(value, np.dtype):
        return value
    name = f"{kind.__module__}.{kind.__qualname__}"
    ours = kind.__module__.split(".")[0] == "brutax"
    if kind in (tuple, list) or (ours and isinstance(value, tuple)):
        return (name, *(describe(item) for item in value))
    if kind is dict:
        return (name, *((key, describe(value[key])) for key in sorted(value)))
    if ours and dataclasses.is_dataclass(value):
        fields = (field.name for field in dataclasses.fields(value))
        return (name, *((field, describe(getattr(value, field))) for field in fields))
    raise TypeError(f"{name} is not a class of brutax")


def _load(name: str) -> _Program | None:
    """The program of a name: a link to the name of its lowered code, where the executable is."""
    link = files.read(f"{name}.link")
    content = link and files.read(f"{link.decode()}.program")
    if not content:
        return None
    try:
        payload, args, outs, outcome = pickle.loads(zlib.decompress(content))
        compiled = serialize_executable.deserialize_and_load(payload, args, outs)
        return _Program(compiled, _Outcome(*outcome))
    except Exception as error:  # of whatever kind a damaged file or another jaxlib raises
        log.warning("a program in the cache cannot be loaded, and is made again: %s", error)
        return None


def _compiled(name: str, lowered: Any, outcome: _Outcome, arguments: str) -> _Program:
    """Compiles a program, unless the same lowered code was compiled under another name.

    That is so after a change of source code that did not change the program. `arguments` include
    those that the program does not use, which its text leaves out.
    """
    what = files.name_of(lowered.as_text(), str(outcome), arguments, files.circumstances())
    files.write(f"{name}.link", what.encode())
    known = _load(name)
    if known:
        return known
    with _NotInJaxCache():
        program = _Program(lowered.compile(), outcome)
    try:
        parts = serialize_executable.serialize(program.compiled)
        content = pickle.dumps((*parts, tuple(outcome)))
    except Exception as error:  # backends that cannot
        log.debug("a program cannot be kept: %s", error)
    else:
        files.write(f"{what}.program", zlib.compress(content, 1))
    return program


class _NotInJaxCache:
    """While this is open, JAX does not put compiled programs into its own cache.

    Executables that were read from that cache lose their code when they are serialised again
    (jaxlib 0.10).
    """

    option = "jax_persistent_cache_min_compile_time_secs"
    lock = threading.Lock()
    inside = 0
    before: Any = None

    def __enter__(self) -> None:
        with self.lock:
            if not _NotInJaxCache.inside:
                _NotInJaxCache.before = jax.config.values[self.option]
                jax.config.update(self.option, float("inf"))
            _NotInJaxCache.inside += 1

    def __exit__(self, *_: Any) -> None:
        with self.lock:
            _NotInJaxCache.inside -= 1
            if not _NotInJaxCache.inside:
                jax.config.update(self.option, _NotInJaxCache.before)
