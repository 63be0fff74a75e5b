"""Reading and writing one Volume from outside, in a small container that mounts it.

This runs there with nothing but the standard library and Modal's own client, and is shipped with
the few modules that :data:`SHIPPED` lists, so that it is deployed once and fits every later version
of hpo that leaves them as they are. Whoever asks does so through ``hpo.on_modal.volumes``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import modal

from hpo.errors import InputError

SHIPPED = ("__init__.py", "current.py", "errors.py", "on_modal/__init__.py", "on_modal/files.py")
"""What of the package ``hpo`` this module needs, itself included."""

MOUNT = PurePosixPath("/hpo-volume")
"""Where the container sees the Volume."""

VOLUME = "HPO_FILES_VOLUME"
"""The variable that tells the container the Volume's name."""

FINGERPRINT = "HPO_FILES_FINGERPRINT"
"""The variable that tells it which deployment it belongs to; every answer says so."""


def read(
    path: str, wanted: list[tuple[str, int, int]]
) -> tuple[str, dict[str, tuple[int, float]], list[bytes]]:
    """Read a file or a directory of the Volume.

    Args:
        path: File or directory in it; empty for all of it.
        wanted: Parts to read, as file below ``path`` (empty for ``path`` itself), offset and
            length; none to list what there is.

    Returns:
        The deployment; size and time of change of each file that was asked for and is there, by its
        name below ``path``; and the parts, if all of their files are there.
    """
    volume = modal.Volume.from_name(os.environ[VOLUME])
    volume.reload()
    root = _inside(path)
    names = list(dict.fromkeys(name for name, _, _ in wanted)) if wanted else _names(root)
    found = {}
    for name in names:
        file = root / name
        if file.is_file():
            found[name] = (file.stat().st_size, file.stat().st_mtime)
    parts = []
    if len(found) == len(names):
        for name, offset, length in wanted:
            with (root / name).open("rb") as file_:
                file_.seek(offset)
                parts.append(file_.read(length))
    return os.environ[FINGERPRINT], found, parts


def write(path: str, parts: list[tuple[str, int, bytes]]) -> tuple[str]:
    """Write parts of files below ``path`` of the Volume; return the deployment."""
    volume = modal.Volume.from_name(os.environ[VOLUME])
    volume.reload()
    write_parts(_inside(path), parts)
    volume.commit()
    return (os.environ[FINGERPRINT],)


def remove(paths: list[str]) -> tuple[str]:
    """Remove files and directories of the Volume; return the deployment.

    One that is not there is no error.
    """
    volume = modal.Volume.from_name(os.environ[VOLUME])
    volume.reload()
    for path in paths:
        place = _inside(path)
        if place == Path(MOUNT):
            raise InputError("all of a Volume is not removed at once: name what is in it")
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
    volume.commit()
    return (os.environ[FINGERPRINT],)


def write_parts(directory: Path, parts: Iterable[tuple[str, int, bytes]]) -> None:
    """Write parts of files below ``directory``, the first part of each file first.

    Raises:
        InputError: A name that leads out of it.
    """
    for name, offset, data in parts:
        path = directory / _safe(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(data)


def _names(root: Path) -> list[str]:
    """Return the names of the files below ``root``; an empty one if it is a file."""
    if root.is_file():
        return [""]
    return sorted(each.relative_to(root).as_posix() for each in root.rglob("*") if each.is_file())


def _inside(path: str) -> Path:
    """Return where ``path`` of the Volume lies in this container."""
    return Path(MOUNT, _safe(path))


def _safe(name: str) -> str:
    """Return ``name``, which leads nowhere else.

    Raises:
        InputError: It does.
    """
    if ".." in Path(name).parts or Path(name).is_absolute():
        raise InputError(f"{name!r} leads out of the directory that it is meant to be in")
    return name
