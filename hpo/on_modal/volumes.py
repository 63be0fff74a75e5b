"""A Volume's files as this machine sees them: listed, fetched, stored, removed.

All of it goes through a tiny app of the Volume's own, deployed when it is first needed: its
functions are those of ``hpo.on_modal.files``. So there is one way to a Volume from here and from a
container, it needs no GPU image, and a study that runs is not in its way.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import modal
from modal.exception import NotFoundError

from hpo.errors import InputError
from hpo.on_modal import files
from hpo.on_modal.errors import modal_errors
from hpo.on_modal.parts import batches, parts_of, spans_of
from hpo.on_modal.pricing import IDLE_SECONDS
from hpo.on_modal.shipping import ROOT, content_hash
from hpo.on_modal.token import NO_TOKEN, has_token

APP = "hpo_files-"
"""Begins the names of the apps; to be changed when the signature of a function of theirs is."""

TIMEOUT_SECONDS = 600
"""What one call may take; it carries at most one batch of parts."""

TRIES = 5
"""How often something is fetched anew that changed while it was fetched."""


@dataclass(frozen=True)
class FileFacts:
    """What tells a file from an earlier state of it.

    Attributes:
        size: Its size in bytes.
        mtime: When it was changed, in seconds since the epoch.
    """

    size: int
    mtime: float


class MissingError(InputError):
    """There is no such Volume, or nothing at the path."""


class VolumeFiles:
    """The files of one Volume; nothing is asked of Modal before a method is called.

    What Modal refuses is an :class:`InputError`, in every method.

    Args:
        volume: The Volume's name.
    """

    def __init__(self, volume: str) -> None:
        self._volume = volume
        self._found = False

    def listing(self, path: str = "") -> dict[str, FileFacts]:
        """Return the files below a directory by their names there; a file itself is ``""``.

        Raises:
            MissingError: There is no such Volume. A path that is not there lists nothing.
        """
        return self._read(path, [])[0]

    def download(self, path: str, target: Path) -> dict[str, FileFacts]:
        """Fetch a file or a directory, whole or not at all; return what :meth:`listing` says of it.

        Args:
            path: What to fetch.
            target: Where to put it: a new name, or that of a file to replace.

        Raises:
            MissingError: There is nothing.
        """
        partial = target.with_name(target.name + ".partial")
        try:
            for _ in range(TRIES):
                _clear(partial)
                found = self.listing(path)
                if not found:
                    raise MissingError(f"the Volume {self._volume} on Modal holds no {path!r}")
                if self._fetch(path, found, partial):
                    os.replace(partial, target)
                    return found
        except OSError as error:
            raise InputError(f"cannot write {target}: {error.strerror or error}.") from error
        finally:
            _clear(partial)
        raise InputError(
            f"{path} on the Volume {self._volume} changed each of {TRIES} times while it was "
            "fetched; try again later."
        )

    def upload(self, path: str, these: Mapping[str, Path]) -> None:
        """Store files of this machine below a directory, under the names given.

        Each is there, or not yet, whole once this has returned and maybe in part before.
        """
        for batch in batches(parts_of(these.items()), lambda part: len(part[2])):
            self._call("write", path, batch)

    def remove(self, paths: Sequence[str]) -> None:
        """Remove files and directories; one that is not there is no error."""
        self._call("remove", list(paths))

    def _fetch(self, path: str, found: Mapping[str, FileFacts], partial: Path) -> bool:
        """Fetch what was found; return whether it is still the same and all there."""
        partial.parent.mkdir(parents=True, exist_ok=True)
        sizes = [(name, facts.size) for name, facts in found.items()]
        for batch in batches(spans_of(sizes), lambda span: span[2]):
            now, parts = self._read(path, batch)
            if now != {name: found[name] for name, _, _ in batch}:
                return False
            spans = zip(batch, parts, strict=True)
            files.write_parts(partial, [(name, at, data) for (name, at, _), data in spans])
        return all((partial / name).stat().st_size == size for name, size in sizes)

    def _read(
        self, path: str, wanted: list[tuple[str, int, int]]
    ) -> tuple[dict[str, FileFacts], list[bytes]]:
        found, parts = self._call("read", path, wanted)
        return {name: FileFacts(*facts) for name, facts in found.items()}, parts

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the app, deploying that first unless it is there as it should be.

        To call an older one does no harm, since each can be called again.
        """
        self._find()
        with modal_errors():
            try:
                fingerprint, *answer = self._function(name).remote(*arguments)
                if fingerprint == fingerprint_of():
                    return answer
            except NotFoundError:
                pass  # it is not deployed, or mounts a Volume that was deleted and made anew
            make_app(self._volume).deploy()
            _, *answer = self._function(name).remote(*arguments)
            return answer

    def _function(self, name: str) -> Any:
        return modal.Function.from_name(_app_name(self._volume), name)

    def _find(self) -> None:
        """See that there is such a Volume: an app for another would be left behind half-made."""
        if self._found:
            return
        if modal.is_local() and not has_token():
            raise InputError(f"the Volume {self._volume} is on Modal, and {NO_TOKEN}")
        with modal_errors():
            try:
                modal.Volume.from_name(self._volume).hydrate()
            except NotFoundError as error:
                raise MissingError(f"there is no Volume {self._volume!r} on Modal") from error
        self._found = True


def make_app(volume: str) -> modal.App:
    """Return the app for a Volume; nothing is asked of Modal."""
    app = modal.App(_app_name(volume), include_source=False)
    image = modal.Image.debian_slim()
    for remote, local in _shipped():
        image = image.add_local_file(local, remote)
    common: dict[str, Any] = {
        "image": image,
        "env": {files.VOLUME: volume, files.FINGERPRINT: fingerprint_of()},
        "volumes": {str(files.MOUNT): modal.Volume.from_name(volume)},
        "cpu": 0.25,
        "memory": 512,
        "timeout": TIMEOUT_SECONDS,
        "scaledown_window": IDLE_SECONDS,
        # One container: what one call wrote is there for the next.
        "max_containers": 1,
    }
    app.function(**common)(files.read)
    app.function(**common)(files.write)
    app.function(**common)(files.remove)
    return app


def fingerprint_of() -> str:
    """Return a hash of what is shipped; whoever ships the same shares the app."""
    return content_hash(iter(_shipped()))


def _shipped() -> list[tuple[str, Path]]:
    package = Path(files.__file__).parents[1]
    return [(str(ROOT / "hpo" / name), package / name) for name in files.SHIPPED]


def _app_name(volume: str) -> str:
    return f"{APP}{volume}"[:64]


def _clear(path: Path) -> None:
    """Remove what an earlier try left."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
