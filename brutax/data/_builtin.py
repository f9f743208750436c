"""The files of fitted models that come with the package."""

from functools import cache
from importlib.resources import files
from io import BytesIO

import numpy as np


@cache
def builtin(name: str) -> dict[str, np.ndarray]:
    """The arrays of `builtin/<name>.npz`, read once."""
    raw = (files("brutax.data") / "builtin" / f"{name}.npz").read_bytes()
    with np.load(BytesIO(raw)) as file:
        return dict(file)
