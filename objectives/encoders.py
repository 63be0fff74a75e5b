"""Loading a base model and shaping it for a trial: fewer layers, fewer dimensions, frozen parts.

Only workers import this module (it needs torch). The shapes are made of sentence-transformers' own
modules, so the saved model loads with plain ``SentenceTransformer(path)`` wherever that is
installed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import nn
from transformers.utils import logging as transformers_logging

from objectives.models import ModelError, ModelName, hub_id, local_path


def choose_device(device: str | None) -> str:
    """Return ``device``, or the best there is if it is ``None``."""
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def has_bf16(device: str) -> bool:
    """Say whether this machine computes in bfloat16 faster than in float32.

    Without AVX512-BF16 or AMX a CPU emulates it, several times slower.
    """
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device == "cpu":
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))
    return False


def load_encoder(
    name: ModelName, device: str, places: Mapping[str, Path] | None = None
) -> SentenceTransformer:
    """Load a base model on ``device``, with the layers that ``name`` keeps.

    Args:
        name: Which one.
        device: ``"cpu"`` or ``"cuda"``.
        places: Where local models lie, if not where their names say.

    Raises:
        ModelError: It is neither here nor on a hub that can be reached.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    directory = (places or {}).get(name.source) or local_path(name.source)
    if directory is not None:
        model = SentenceTransformer(str(directory), device=device)
    else:
        model = _load_from_hub(name.source, device)
    model.model_card_data.local_files_only = True  # saving must not ask the hub for anything
    if name.layers is not None:
        _keep_layers(model, name)
    return model


def _load_from_hub(source: str, device: str) -> SentenceTransformer:
    repository = hub_id(source)
    try:
        # What is in the cache needs no network, and must not wait for one that is not there.
        return SentenceTransformer(repository, device=device, local_files_only=True)
    except (OSError, ValueError):
        pass
    try:
        return SentenceTransformer(repository, device=device)
    except (OSError, ValueError) as error:
        raise ModelError(f"model {source!r} cannot be loaded: {error}") from error


def save_encoder(model: SentenceTransformer, path: Path) -> None:
    """Save ``model`` under ``path``, all of it or nothing."""
    partial = path.with_name(path.name + ".partial")
    model.save_pretrained(str(partial), create_model_card=False)
    os.replace(partial, path)


def count_parameters(model: SentenceTransformer) -> int:
    """Return how many numbers ``model`` consists of, trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def set_dimension(model: SentenceTransformer, dimension: int, trained: bool) -> Dense | None:
    """Make ``model`` give ``dimension`` numbers, by a linear map before its Normalize if it has
    one.

    The map starts as truncation to the first coordinates, without bias; unless it is ``trained`` it
    stays that. It is part of the model, so that vectors keep length 1 and training, scoring and the
    saved model all see the same ones. With all dimensions and no training there is nothing to add.

    Returns:
        The module that was added, if one was.
    """
    width = model.get_embedding_dimension()
    assert width is not None
    if dimension == width and not trained:
        return None
    linear = Dense(
        width,
        dimension,
        bias=False,
        activation_function=None,
        init_weight=torch.eye(dimension, width),
    ).to(model.device)
    linear.requires_grad_(trained)
    last = len(model) - 1
    model.insert(last if isinstance(model[last], Normalize) else last + 1, linear)
    return linear


def set_dropout(model: SentenceTransformer, probability: float) -> None:
    """Set every dropout probability of ``model``."""
    _set_dropout(model, probability)


def freeze_lower(model: SentenceTransformer, share: float) -> None:
    """Freeze the embeddings and the first ``share`` of the layers, in eval mode.

    Their dropout is set to zero, which is what eval mode means for a transformer encoder, because
    the Trainer puts the whole model into training mode at every step.

    Raises:
        ModelError: The model has no stack of layers that could be found.
    """
    transformer = _transformer(model)
    layers = _layers(transformer)
    count = min(int(share * len(layers) + 0.5), len(layers) - 1)
    kept = {id(parameter) for parameter in layers[count:].parameters()}
    for parameter in transformer.parameters():
        parameter.requires_grad_(id(parameter) in kept)
    for part in (transformer.get_input_embeddings(), *layers[:count]):
        _set_dropout(part, 0.0)
    embeddings = getattr(transformer, "embeddings", None)
    if isinstance(embeddings, nn.Module):
        _set_dropout(embeddings, 0.0)


def _set_dropout(part: nn.Module, probability: float) -> None:
    for module in part.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        # Attention without a dropout module of its own keeps the probability in an attribute.
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = probability  # type: ignore[assignment]


def _keep_layers(model: SentenceTransformer, name: ModelName) -> None:
    assert name.layers is not None
    transformer = _transformer(model)
    layers = _layers(transformer)
    if name.layers > len(layers):
        raise ModelError(f"model {str(name)!r}: it has {len(layers)} layers; ask for at most those")
    del layers[name.layers :]
    config: Any = transformer.config
    config.num_hidden_layers = name.layers
    if isinstance(getattr(config, "layer_types", None), list):
        config.layer_types = config.layer_types[: name.layers]


def _transformer(model: SentenceTransformer) -> Any:
    transformer = model.transformers_model
    if transformer is None:
        raise ModelError("this base model is no transformer: it has no layers to keep or to freeze")
    return transformer


def _layers(transformer: Any) -> nn.ModuleList:
    count = transformer.config.num_hidden_layers
    for module in transformer.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(f"{type(transformer).__name__} has no stack of {count} layers")
