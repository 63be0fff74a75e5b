"""Numbers, parameters and paths as people read them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def score(value: float) -> str:
    """Return an objective value: four decimals where they say something, else four digits."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4f}"
    return f"{value:.4g}"


def parameter(value: Any) -> str:
    """Return a parameter's value; floats to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def parameters(values: Mapping[str, Any]) -> str:
    """Return parameters by name, in one line."""
    return " · ".join(f"{name}={parameter(value)}" for name, value in values.items())


def duration(seconds: float) -> str:
    """Return ``seconds`` as people say it: 45 s, 3 min, 2 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def short_path(path: str | Path) -> str:
    """Return ``path`` from the current directory if it lies in it."""
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else str(path)
