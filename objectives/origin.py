"""Where a base model comes from, and on what terms: what a model made of it has to say.

Read from the model's own card on this machine, never from the network: a model is exported where
there may be none.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from objectives.models import MINILM_NAMES, ModelName, hub_id, local_path

CARD = "README.md"
CONFIG = "config.json"
LICENCE = ("license", "license_name", "license_link")


def origin_of(name: ModelName) -> dict[str, Any]:
    """Return what is known of a base model.

    Returns:
        ``name``, as people write it; ``hub``, its id on the Hugging Face hub or ``None``;
        ``layers``, how many are kept or ``None`` for all; ``license``, ``license_name`` and
        ``license_link`` as far as its own card or configuration says so.
    """
    hub: str | None = hub_id(name.source)
    shown = name
    directory = local_path(name.source)
    if directory is not None and name.source not in MINILM_NAMES:
        # Not the whole path, which says more of whoever trained the model than of the model.
        hub, shown = None, replace(name, source=directory.name)
    return {"name": str(shown), "hub": hub, "layers": name.layers, **_licence(name.source)}


def _licence(source: str) -> dict[str, Any]:
    from huggingface_hub.repocard import metadata_load
    from yaml import YAMLError  # type: ignore[import-untyped]

    card, config = _file(source, CARD), _file(source, CONFIG)
    stated: dict[str, Any] = {}
    try:
        stated = (metadata_load(card) if card is not None else None) or {}
        if not stated.get("license") and config is not None:
            stated = json.loads(config.read_text(encoding="utf-8"))
    except (ValueError, OSError, YAMLError):  # what cannot be read says nothing
        return {}
    found = {name: stated.get(name) for name in LICENCE}
    return {name: value for name, value in found.items() if isinstance(value, str) and value}


def _file(source: str, name: str) -> Path | None:
    """Return a file of the model on this machine, if it is there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    directory = local_path(source)
    if directory is not None:
        path = directory / name
        return path if path.is_file() else None
    try:
        cached = try_to_load_from_cache(hub_id(source), name)
    except HFValidationError:  # a path that is not here (any more)
        return None
    return Path(cached) if isinstance(cached, str) else None
