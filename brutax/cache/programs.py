"""Functions in several stages, whose compiled programs are kept for later processes.

Tracing, lowering and compiling the fit of one star takes many times as long as the fit. JAX's cache
saves compilation only. Here the executables themselves are kept (`brutax.cache.files`) under names
made from everything that they depend on, so that a later process neither traces nor lowers. The
files are pickles and, like those of JAX's own cache, trusted: whoever can write into the folder can
run code as its user. Where a version of JAX no longer has what this needs, programs are compiled
and kept by JAX alone, with a line in the log.
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
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.core
import numpy as np

from brutax.cache import files

log = logging.getLogger("brutax")
T = TypeVar("T")

# types whose values a program may depend on by their `repr`
PLAIN = (bool, int, float, complex, str, bytes, type(None), np.dtype)


_known: weakref.WeakSet["Stages"] = weakref.WeakSet()
_lacking: list[str] = []  # what JAX turned out not to have: nothing is kept any more


def forget() -> None:
    """Drops the programs of this process from memory, as `jax.clear_caches` does with JAX's own."""
    for stages in _known:
        stages.ready.clear()


class Stages:
    """Functions called one after the other, each as `stage(state, inputs, setting)`.

    `state` is the value of the stage before, None for the first; `inputs` has one pytree and
    `settings` one hashable value for each stage. Inputs and setting of a stage must determine its
    program, including the shapes of the state. A stage is a pure function of module level whose
    value is made of arrays, tuples and named tuples.

    The program of a stage whose inputs hold classes from outside the package is kept in this
    process only: the name of a file could not include their code. The other stages of such a fit
    are kept.
    """

    def __init__(self, *stages: Callable) -> None:
        self.stages = stages
        self.jitted = [eqx.filter_jit(stage) for stage in stages]
        self.ready: dict[tuple, _Program] = {}
        self.lock = threading.Lock()
        _known.add(self)

    def __call__(self, inputs: Sequence[Any], settings: Sequence[Any]) -> Any:
        return deque(self.each(inputs, settings), maxlen=1).pop()

    def each(self, inputs: Sequence[Any], settings: Sequence[Any]) -> Iterator[Any]:
        """The value of each stage; all but the last as lists of arrays without their structure."""
        programs, flat, trouble = self._programs(inputs, settings)
        if not programs:  # compiled and kept by JAX
            state = None
            for stage, given, setting in zip(self.jitted, inputs, settings, strict=True):
                state = stage(state, given, setting)
                yield state
            if trouble and not _lacking:  # not that of a stage itself, since JAX could compile it
                what = f"{type(trouble).__name__}: {trouble}"
                log.warning("compiled programs are not kept with this version of JAX (%s)", what)
                _lacking.append(what)
            return
        state = []
        for program, given in zip(programs[:-1], flat):
            state = program.compiled(*state, *given.leaves)
            yield state
        last = programs[-1]
        yield jax.tree.unflatten(last.outcome.tree, last.compiled(*state, *flat[-1].leaves))

    def _programs(
        self, inputs: Sequence[Any], settings: Sequence[Any]
    ) -> tuple[list["_Program"], list["_Inputs"], Exception | None]:
        """The programs of all stages and their arguments; none where JAX is to compile them.

        The last value is the error that says why, if there was one.
        """
        if _lacking:
            return [], [], None
        try:
            described = _descriptions(inputs)
            if described is None:
                return [], [], None
            flat = _once_each(_flatten, inputs)
            keys = [
                (k, what.key, setting)
                for k, (what, setting) in enumerate(zip(described, settings, strict=True))
            ]
            programs = [self.ready[key] for key in keys if key in self.ready]
            if len(programs) < len(keys):
                with self.lock:
                    programs = self._make(keys, described, flat, settings)
            return programs, flat, None
        except _LACKS as error:
            return [], [], error

    def _make(
        self,
        keys: list[tuple],
        described: list["_Description"],
        flat: list["_Inputs"],
        settings: Sequence[Any],
    ) -> list["_Program"]:
        """The programs of some keys: from memory, from the cache, or new."""
        place = _place() or 0  # this thread's: those of the pool have no default device
        basis = (files.code(), files.circumstances(), place)
        names: dict[tuple, str | None] = {}  # None: kept in this process only
        for stage, key, what in zip(self.stages, keys, described, strict=True):
            name = files.name_of(stage.__module__, stage.__qualname__, key[1:], basis)
            names[key] = name if what.everywhere else None
        missing = [key for key in keys if key not in self.ready]
        with ThreadPoolExecutor(len(keys)) as pool:
            loaded = [pool.submit(_load, names[key], place) for key in missing]
            found = zip(missing, (program.result() for program in loaded))
            self.ready |= {key: program for key, program in found if program}
            last, waiting = _Outcome((), None), {}
            for k, (stage, key) in enumerate(zip(self.stages, keys, strict=True)):
                if key in self.ready:
                    last = self.ready[key].outcome
                    continue
                function = _Flat(stage, last, flat[k], settings[k])
                lowered = jax.jit(function).lower(*last.shapes, *flat[k].leaves)
                shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in lowered.out_info)
                last = _Outcome(shapes, function.tree)
                # compiles while the next one is traced
                waiting[key] = pool.submit(
                    _compiled, names[key], lowered, last, str(lowered.in_avals), place
                )
            self.ready |= {key: program.result() for key, program in waiting.items()}
        return [self.ready[key] for key in keys]


# what Python raises where a name is gone, or a function takes other arguments
_LACKS = (AttributeError, ImportError, KeyError, NotImplementedError, TypeError)


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


def _flatten(inputs: Any) -> _Inputs:
    dynamic, static = eqx.partition(inputs, _is_array)
    leaves, tree = jax.tree.flatten(dynamic)
    return _Inputs(leaves, tree, static)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


class _Description(NamedTuple):
    """What the program of a stage depends on in its inputs."""

    key: Any  # hashable
    everywhere: bool  # also in other processes, as `describe` says it


def _descriptions(inputs: Sequence[Any]) -> list[_Description] | None:
    """Descriptions of the inputs of every stage; None where JAX is to compile and keep programs.

    That is for programs that are traced as part of others, for a device of another kind than the
    first, and where nothing is to be kept.
    """
    leaves = jax.tree.leaves(inputs)
    if files.folder() is None or any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return None
    config: Any = jax.config
    if config.jax_disable_jit:
        return None
    here = (_place(), bool(config.read("jax_enable_x64")))
    if here[0] is None:
        return None
    found = _once_each(lambda given: _description(given, here), inputs)
    known = [what for what in found if what is not None]
    return known if len(known) == len(found) else None


def _description(inputs: Any, here: tuple) -> _Description | None:
    """The description of the inputs of a stage; None if what is static in them cannot be hashed."""
    try:
        return _Description(repr((describe(inputs), here)), True)
    except TypeError as error:
        log.debug("a program is kept in this process only: %s", error)
    dynamic, static = eqx.partition(inputs, _is_array)
    shapes = tuple(_shape(x) for x in jax.tree.leaves(dynamic))
    leaves, structure = jax.tree.flatten(static)
    key = (jax.tree.structure(dynamic), structure, tuple(leaves), shapes, here)
    try:
        hash(key)
    except TypeError as error:
        log.debug("a program is not kept: %s", error)
        return None
    return _Description(key, False)


def _shape(array: Any) -> tuple:
    if isinstance(array, jax.Array):
        return ("array", array.shape, str(array.dtype), bool(array.aval.weak_type))
    return ("array", array.shape, str(jax.dtypes.canonicalize_dtype(array.dtype)), False)


def _once_each(function: Callable[[Any], T], values: Sequence[Any]) -> list[T]:
    """The function of some values, of which several may be the same object."""
    known: dict[int, T] = {}
    for value in values:
        if id(value) not in known:
            known[id(value)] = function(value)
    return [known[id(value)] for value in values]


def _place() -> int | None:
    """The number of the device that computes; None for one of another kind than the first."""
    devices, chosen = jax.local_devices(), jax.config.jax_default_device  # pyright: ignore
    if chosen is None or chosen == jax.default_backend():
        return 0
    return devices.index(chosen) if chosen in devices else None


def describe(value: Any) -> Any:
    """What a program can depend on in a pytree: types, static values, shapes and dtypes of arrays.

    Raises `TypeError` for functions and for classes from outside the package, whose code may change
    while their names do not.
    """
    if _is_array(value):
        return _shape(value)
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


def _load(name: str | None, place: int) -> _Program | None:
    """The program of a name, for a device: a link to the name of its lowered code, where it is."""
    if name is None:
        return None
    link = files.read(f"{name}.link")
    content = link and files.read(f"{link.decode()}.program")
    if not content:
        return None
    try:
        payload, args, outs, outcome = pickle.loads(zlib.decompress(content))
        where = {"execution_devices": [jax.local_devices()[place]]}
        compiled = _serialize_executable().deserialize_and_load(payload, args, outs, **where)
        return _Program(compiled, _Outcome(*outcome))
    except Exception as error:  # of whatever kind a damaged file or another jaxlib raises
        log.warning("a program in the cache cannot be loaded, and is made again: %s", error)
        return None


def _compiled(
    name: str | None, lowered: Any, outcome: _Outcome, arguments: str, place: int
) -> _Program:
    """Compiles a program for a device, unless its lowered code was compiled under another name.

    That is so after a change of source code that did not change the program. `arguments` include
    those that the program does not use, which its text leaves out.
    """
    if name is None:
        with _NotInJaxCache():  # where the same code, with a name, would be read from there
            return _Program(lowered.compile(), outcome)
    basis = (files.circumstances(), place)
    what = files.name_of(lowered.as_text(), str(outcome), arguments, basis)
    files.write(f"{name}.link", what.encode())
    known = _load(name, place)
    if known:
        return known
    with _NotInJaxCache():
        program = _Program(lowered.compile(), outcome)
    try:
        parts = _serialize_executable().serialize(program.compiled)
        content = pickle.dumps((*parts, tuple(outcome)))
    except Exception as error:  # backends that cannot
        log.debug("a program cannot be kept: %s", error)
    else:
        files.write(f"{what}.program", zlib.compress(content, 1))
    return program


def _serialize_executable() -> Any:
    """JAX' module of that name, which may move: it is experimental."""
    from jax.experimental import serialize_executable

    return serialize_executable


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
