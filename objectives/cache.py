"""Embeddings of a base model kept on disk, for everything that trains or scores on top of them.

Keyed by what they depend on, written to a temporary name and renamed: when two workers compute the
same ones at once, the last rename wins and both were right.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from objectives.evaluation import Matrix


def cached_embeddings(
    directory: Path, model: str, texts: tuple[str, ...], precision: str, make: Callable[[], Matrix]
) -> Matrix:
    """Return the embeddings of ``texts`` by the untuned ``model``, from the cache if they are
    there.

    Args:
        directory: Where the cache lies; made if it is not there.
        model: The base model's name.
        texts: What was or is to be encoded, in this order.
        precision: ``"float32"`` or ``"bfloat16"``: what they were computed in.
        make: Computes them, shape (len(texts), dimension).
    """
    content = json.dumps([model, precision, texts]).encode()
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", model)[-60:].strip("-")
    path = directory / f"{stem}-{hashlib.sha256(content).hexdigest()[:20]}.npy"
    if path.is_file():
        found: Matrix = np.load(path, allow_pickle=False)
        return found
    embeddings = make()
    directory.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=directory, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, embeddings)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    return embeddings
