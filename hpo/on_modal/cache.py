"""What fills the cache, in a CPU container, before the first GPU second.

Directories lie below the cache under names made of their content, so that each travels once. The
objective is imported here first: what it lacks is found out where nothing is expensive.
"""

from __future__ import annotations

import os
from pathlib import Path

import modal

from hpo.errors import InputError
from hpo.objective import load_objective
from hpo.on_modal.calls import text_of
from hpo.on_modal.files import write_parts
from hpo.on_modal.messages import (
    CACHE,
    CACHE_VOLUME,
    FINGERPRINT,
    CacheAnswer,
    CacheRequest,
    parse,
)

COMPLETE = ".complete"
"""The file that a directory gets last."""


def fill_cache(text: str, assets: dict[str, str]) -> str:
    """Answer a :class:`CacheRequest` with a :class:`CacheAnswer`.

    Args:
        text: The request.
        assets: Where the directories lie that the objective asks for, by its own names.
    """
    request = parse(CacheRequest, text)
    volume = modal.Volume.from_name(CACHE_VOLUME)
    volume.reload()
    missing = tuple(name for name in request.assets if not Path(CACHE, name, COMPLETE).exists())
    error = ""
    if request.objective is not None and not missing:
        try:
            objective = load_objective(request.objective)
            fetch = getattr(objective, "fetch", None)
            if fetch is not None:
                fetch({name: Path(CACHE, place) for name, place in assets.items()})
                volume.commit()
        except (InputError, ValueError, OSError) as failure:
            error = text_of(failure)
        except (Exception, SystemExit) as failure:
            error = f"{type(failure).__name__}: {failure}"
    return CacheAnswer(
        fingerprint=os.environ.get(FINGERPRINT, ""),
        missing=missing,
        error=error,
    ).model_dump_json()


def store(name: str, parts: list[tuple[str, int, bytes]], last: bool) -> None:
    """Write parts of the files of a directory; what calls of this function wrote adds up.

    Args:
        name: The directory below the cache.
        parts: File within it, offset, and what is to be written there.
        last: Whether the directory is complete with this.
    """
    volume = modal.Volume.from_name(CACHE_VOLUME)
    volume.reload()
    directory = Path(CACHE, name)
    if any(offset == 0 for _, offset, _ in parts) and (directory / COMPLETE).exists():
        return  # somebody else was quicker
    write_parts(directory, parts)
    if last:
        (directory / COMPLETE).touch()
    volume.commit()
