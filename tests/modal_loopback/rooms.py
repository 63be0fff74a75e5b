"""Plans the root of a container: what of this machine it sees, and where the shipped files lie.

Only what is listed here is visible: the system's directories and the interpreter with its packages.
So neither the project's source nor the directory of the client is there. Where one of them lies
within a visible directory (a project installed into site-packages), an empty one hides it.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tests.modal_loopback import launcher

SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/usr", "/etc", "/nix", "/proc", "/sys")
"""Visible as they are, where they exist; ``/dev`` too."""

PROJECT = ("hpo", "objectives", "storage", "tests")
"""Packages that a container gets only by having them shipped."""

HOME = "/root"
"""Where Modal puts shipped Python source, and where a container begins."""

SOCKET = "/run/control-plane.sock"
"""The control plane, as a container sees it."""

ARGUMENTS = "/run/arguments"
"""The file with what its entrypoint is to do."""


class NoRoomError(RuntimeError):
    """Raised where the system does not allow containers a root of their own."""


@dataclass(frozen=True)
class ShippedFile:
    """A file that the app brings along.

    Attributes:
        target: Its absolute path in the container.
        source: Where its content is kept here.
        mode: Its permissions.
    """

    target: str
    source: Path
    mode: int


@dataclass(frozen=True)
class VolumeLayer:
    """A Volume in a container.

    Attributes:
        target: Its absolute path in the container.
        lower: The directory of what was committed when the container began.
        read_only: Whether the container may not write to it.
    """

    target: str
    lower: Path
    read_only: bool


def interpreter_places() -> list[Path]:
    """Return the directories that the interpreter of this process needs, its packages included."""
    executables = [Path(sys.executable).absolute(), Path(sys.executable).resolve()]
    prefixes = [sys.prefix, sys.base_prefix, sys.exec_prefix, sysconfig.get_path("purelib")]
    places = [Path(prefix) for prefix in prefixes]
    places += [executable.parent.parent for executable in executables]
    return [place for place in dict.fromkeys(places) if place != Path("/")]


def hidden_places() -> list[Path]:
    """Return the directories of the project's packages, and the one that this process is in."""
    places = [Path.cwd()]
    for name in PROJECT:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            places += [Path(place) for place in spec.submodule_search_locations]
    return [place for place in places if place.is_dir()]


def outermost(places: Iterable[Path]) -> list[Path]:
    """Drop what lies within another one."""
    found: list[Path] = []
    for place in sorted(set(places), key=lambda each: len(each.parts)):
        if not any(place.is_relative_to(other) for other in found):
            found.append(place)
    return found


@functools.cache
def visible_places() -> tuple[dict[str, str], list[Path], list[Path]]:
    """Return links to make, directories to show, and those among them to hide."""
    system = [Path(place) for place in (*SYSTEM, "/dev") if Path(place).exists()]
    links = {str(place): os.readlink(place) for place in system if place.is_symlink()}
    shown = outermost([place for place in system if not place.is_symlink()] + interpreter_places())
    hidden = [
        place
        for place in hidden_places()
        if any(place.is_relative_to(other) for other in shown)
        and not any(other.is_relative_to(place) for other in (*shown, *interpreter_places()))
    ]
    return links, shown, outermost(hidden)


def ship(root: Path, files: Sequence[ShippedFile]) -> None:
    """Copy shipped files to their places under ``root``."""
    for file in files:
        place = root / file.target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.source, place)
        place.chmod(file.mode or 0o644)


def prepare(
    directory: Path,
    *,
    socket: Path,
    arguments: bytes,
    files: Sequence[ShippedFile],
    volumes: Sequence[VolumeLayer],
    environment: Mapping[str, str],
    command: Sequence[str],
    work_directory: str = HOME,
) -> list[str]:
    """Lay out a container in ``directory`` and return the command that starts it.

    The control plane has to start it itself, from a thread that lives as long as it does: the
    container is killed when that thread is gone.
    """
    root = directory / "root"
    for name in ("tmp", "run", HOME.lstrip("/"), work_directory.lstrip("/")):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (directory / "empty").mkdir()
    (root / ARGUMENTS.lstrip("/")).write_bytes(arguments)
    ship(root, files)
    links, shown, hidden = visible_places()
    plan = {
        "root": str(root),
        "empty": str(directory / "empty"),
        "links": links,
        "binds": [(str(place), str(place)) for place in shown] + [(str(socket), SOCKET)],
        "masks": [str(place) for place in hidden],
        "volumes": [
            {
                "target": str(PurePosixPath(layer.target)),
                "lower": str(layer.lower.resolve()),
                "scratch": str(directory / f"volume-{number}"),
                "read_only": layer.read_only,
            }
            for number, layer in enumerate(volumes)
        ],
        "directory": work_directory,
        "environment": dict(environment),
        "command": list(command),
        "parent": os.getpid(),
    }
    for layer in plan["volumes"]:
        Path(layer["scratch"]).mkdir()
    (directory / "plan.json").write_text(json.dumps(plan))
    return [sys.executable, "-I", "-S", launcher.__file__, str(directory / "plan.json")]


def remove(directory: Path) -> None:
    """Delete the root and the writes of a container that has ended; its log stays."""

    def open_up(function: object, path: str, _: object) -> None:
        # The kernel closes the work directory of an overlay even to its owner.
        os.chmod(path, 0o700)
        shutil.rmtree(path)

    for place in directory.iterdir():
        if place.is_dir():
            shutil.rmtree(place, onerror=open_up)


@functools.cache
def room_problem() -> str | None:
    """Return why containers cannot have roots of their own here; ``None`` if they can."""
    if sys.platform != "linux":
        return f"containers need Linux's mount namespaces; this is {sys.platform}"
    with tempfile.TemporaryDirectory(prefix="mlb-") as name:
        directory = Path(name)
        (directory / "lower").mkdir()
        (directory / "socket").touch()
        command = prepare(
            directory,
            socket=directory / "socket",
            arguments=b"",
            files=[],
            volumes=[VolumeLayer("/probe", directory / "lower", False)],
            environment={},
            command=[sys.executable, "-I", "-S", "-c", "open('/probe/file', 'w').close()"],
        )
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        remove(directory)
    if done.returncode == 0:
        return None
    return f"containers cannot have roots of their own: {done.stderr.strip()}"
