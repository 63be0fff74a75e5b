"""Closed models behind an API, as baselines: a small module a provider, the rest once for all.

Importing this package imports no SDK and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from objectives.apis.model import PROVIDERS, ApiModel
from objectives.apis.provider import ApiError
from objectives.models import inspect_model, local_path, parse_model

__all__ = ["PROVIDERS", "ApiError", "ApiModel", "api_model", "is_behind_api"]


def is_behind_api(name: str) -> bool:
    """Say whether ``name`` is ``provider:model`` and no directory of this machine."""
    source = parse_model(name).source
    return ":" in source and local_path(source) is None


def api_model(
    name: str, pairs: str, dimensions: int | None, prices: Mapping[str, float]
) -> ApiModel | None:
    """Return a model behind an API; ``None`` for a sentence-transformers model that can be had.

    Args:
        name: ``provider:model``, or a base model as ``objectives.models.parse_model`` takes it.
        pairs: File of the pairs to score it on, as ``objectives.pairs.write_jsonl`` writes them.
        dimensions: How long vectors are to be.
        prices: Dollars for a million tokens by ``provider:model``.

    Raises:
        ValueError: There is no such model, or ``dimensions`` for one that runs here.
    """
    if is_behind_api(name):
        return ApiModel(name, pairs, dimensions, prices)
    if dimensions is not None:
        raise ApiError(
            f"--dimensions is for models behind an API, and {name!r} runs here, with all of its "
            "dimensions: score it in a command of its own."
        )
    inspect_model(parse_model(name))
    return None
