"""Volumes: what was committed, and what a container sees of it.

A Volume is a directory for each version; a file that a commit doesn't touch is a hard link to that
of the version before. A version never changes, so a container can have it as the lower directory of
an overlay: it starts at once, however much the Volume holds, and its writes stay its own. A commit
compares what the container sees with what it saw last, by time and size, and makes a new version; a
reload brings what others have committed into the container's view, from outside, through /proc.

A control plane that isn't root's has one limit: the kernel doesn't let its containers rename a
directory that was committed before they began (EXDEV).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.modal_loopback.queues import found_or_made
from tests.modal_loopback.wire import answers, missing

if TYPE_CHECKING:
    from tests.modal_loopback.containers import Container

Stamp = tuple[int, int] | str
"""Time and size of a file, the target of a link, ``directory``."""

DIRECTORY = "directory"


def stamps(top: Path) -> dict[str, Stamp]:
    """Return what lies under ``top``, by relative path, directories before their content."""
    found: dict[str, Stamp] = {}

    def walk(directory: Path, prefix: str) -> None:
        for entry in sorted(os.scandir(directory), key=lambda each: each.name):
            name = prefix + entry.name
            if entry.is_symlink():
                found[name] = os.readlink(entry)
            elif entry.is_dir():
                found[name] = DIRECTORY
                walk(Path(entry), name + "/")
            else:
                status = entry.stat()
                found[name] = (status.st_mtime_ns, status.st_size)

    walk(top, "")
    return found


def place(source: Path, target: Path, stamp: Stamp, link: bool = False) -> None:
    """Make ``target`` what ``source`` is, in one step; ``link`` to share a file's content."""
    if stamp == DIRECTORY:
        target.mkdir(exist_ok=True)
        return
    new = target.with_name(f".new-{target.name}"[:200])
    if isinstance(stamp, str):
        new.symlink_to(stamp)
    elif link:
        os.link(source, new)
    else:
        shutil.copy2(source, new)
    new.replace(target)


def remove(target: Path) -> None:
    """Remove a file, a link or a directory."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def turn(current: Path, before: dict[str, Stamp], after: dict[str, Stamp], source: Path) -> None:
    """Change ``current``, which holds ``before``, so that it holds ``after`` as ``source`` does."""
    gone = [name for name in before if name not in after or _kind(before[name], after[name])]
    for name in sorted(gone, reverse=True):
        remove(current / name)
    for name, stamp in after.items():
        if name in gone or before.get(name) != stamp:
            place(source / name, current / name, stamp)


def _kind(before: Stamp, after: Stamp) -> bool:
    """Whether something became something else, a file a directory, say."""
    return type(before) is not type(after) or (before == DIRECTORY) != (after == DIRECTORY)


@dataclass
class Volume:
    """A Volume.

    Attributes:
        id: ``vo-…``.
        home: Its versions, and ``current``, a link to the last.
        v2: Whether it was made as version 2 of Modal's Volumes.
        version: The number of the last version.
        users: How many containers have a version as their lower directory.
    """

    id: str
    home: Path
    v2: bool = False
    version: int = 0
    users: dict[int, int] = field(default_factory=dict)
    _work: threading.Lock = field(default_factory=threading.Lock)
    _books: threading.Lock = field(default_factory=threading.Lock)

    @property
    def current(self) -> Path:
        """The directory of what is committed; its path never changes."""
        return self.home / "current"

    def directory(self, version: int) -> Path:
        """Return the directory of one version."""
        return self.home / str(version)

    async def alone(self, action: Callable[[], None]) -> None:
        """Commit or reload in a thread, one at a time.

        The lock is the thread's: a client that hangs up ends its request, and not what was begun.
        """

        def locked() -> None:
            with self._work:
                action()

        await asyncio.to_thread(locked)

    def begin(self) -> None:
        """Make the first, empty version."""
        self.directory(0).mkdir(parents=True)
        self.current.symlink_to("0")

    def hold(self) -> int:
        """Return the last version, and keep it until it is released."""
        with self._books:
            self.users[self.version] = self.users.get(self.version, 0) + 1
            return self.version

    def release(self, version: int) -> None:
        """Let go of a version."""
        with self._books:
            self.users[version] -= 1
            self._tidy()

    def _tidy(self) -> None:
        """Delete the versions that nobody needs."""
        for directory in self.home.iterdir():
            number = int(directory.name) if directory.name.isdigit() else self.version
            if number != self.version and not self.users.get(number):
                shutil.rmtree(directory)

    def commit(self, source: Path, before: dict[str, Stamp], after: dict[str, Stamp]) -> None:
        """Make a version with the changes that turned ``before`` into ``after``, as in ``source``.

        What others have committed since ``before`` stays, unless it is the same file.

        Raises:
            FileNotFoundError: ``source`` has gone, with the container whose it was.
        """
        last = stamps(self.current)
        following = dict(last)
        changed = {name: stamp for name, stamp in after.items() if before.get(name) != stamp}
        for name in before:
            if name not in after:
                following.pop(name, None)
        following |= changed
        for name in list(following):
            for parent in PurePosixPath(name).parents[:-1]:
                following[str(parent)] = DIRECTORY
        new = self.home / "new"
        new.mkdir()
        try:
            for name in sorted(following):
                if name not in changed:
                    place(self.current / name, new / name, following[name], link=True)
                    continue
                with suppress(FileNotFoundError):  # the container has removed it meanwhile
                    place(source / name, new / name, following[name])
            if not source.is_dir():
                raise FileNotFoundError(f"{source} has gone during a commit")
            self._publish(new)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _publish(self, new: Path) -> None:
        """Make a directory the last version."""
        with self._books:
            self.version += 1
            new.rename(self.directory(self.version))
            link = self.home / "link"
            link.symlink_to(str(self.version))
            link.replace(self.current)
            self._tidy()


@dataclass
class View:
    """A Volume as a container sees it.

    Attributes:
        volume: The Volume.
        target: Where it is in the container.
        version: The version that it began with.
        seen: What the container saw when it last committed or reloaded.
    """

    volume: Volume
    target: str
    version: int
    seen: dict[str, Stamp]

    def path(self, pid: int) -> Path:
        """Return it as seen from outside, through a process of the container."""
        return Path(f"/proc/{pid}/root{self.target}")

    def commit(self, pid: int) -> None:
        """Let others see what the container has written."""
        now = stamps(self.path(pid))
        if now != self.seen:
            self.volume.commit(self.path(pid), self.seen, now)
            self.seen = now

    def reload(self, pid: int) -> None:
        """Let the container see what others have committed; what it has written itself stays."""
        path = self.path(pid)
        now, last = stamps(path), stamps(self.volume.current)
        own = {name for name in now | self.seen if now.get(name) != self.seen.get(name)}
        after = {name: stamp for name, stamp in last.items() if name not in own}
        after |= {name: now[name] for name in own if name in now}
        turn(path, now, dict(sorted(after.items())), self.volume.current)
        self.seen = {name: stamp for name, stamp in self.seen.items() if name in own}
        self.seen |= {name: stamp for name, stamp in last.items() if name not in own}


def open_files(pid: int, target: str) -> Iterator[str]:
    """Yield the files under ``target`` that a process holds open."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            name = os.readlink(descriptor)
            if f"{target.rstrip('/')}/" in name and not name.endswith(" (deleted)"):
                yield name


class Volumes:
    """Answers what concerns Volumes.

    Args:
        directory: Where they are kept.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._names: dict[str, str] = {}
        self.volumes: dict[str, Volume] = {}

    def named(self, name: str) -> Path:
        """Return the directory of what is committed to a Volume.

        Raises:
            KeyError: There is no such Volume.
        """
        if name not in self._names:
            known = ", ".join(sorted(self._names)) or "none"
            raise KeyError(f"there is no Volume {name!r}; there is: {known}")
        return self.volumes[self._names[name]].current

    def metadata(self, volume_id: str) -> api_pb2.VolumeMetadata:
        """Return what clients are told of a Volume."""
        v2 = self.volumes[volume_id].v2
        return api_pb2.VolumeMetadata(
            version=api_pb2.VOLUME_FS_VERSION_V2 if v2 else api_pb2.VOLUME_FS_VERSION_V1,
            name=next((name for name, key in self._names.items() if key == volume_id), ""),
        )

    def view(self, mount: api_pb2.VolumeMount) -> View:
        """Return a Volume as a container that starts now will see it."""
        volume = self.volume(mount.volume_id)
        version = volume.hold()
        return View(volume, mount.mount_path, version, stamps(volume.directory(version)))

    def volume(self, volume_id: str) -> Volume:
        """Return a Volume; NOT_FOUND without one."""
        if volume_id not in self.volumes:
            raise missing(f"Volume {volume_id!r} not found")
        return self.volumes[volume_id]

    def _mounted(self, volume_id: str, container: Container | None) -> tuple[View, int]:
        views = container.views if container is not None else []
        for view in views:
            if view.volume.id == volume_id and container and container.pid is not None:
                return view, container.pid
        raise missing(f"Volume {volume_id!r} is not mounted here")

    @answers("VolumeGetOrCreate")
    async def get_or_create(
        self, request: api_pb2.VolumeGetOrCreateRequest, _: object
    ) -> api_pb2.VolumeGetOrCreateResponse:
        """Find a Volume by name, or make one."""
        name = request.deployment_name
        volume_id, new = found_or_made(
            self._names, "Volume", "vo", name, request.object_creation_type
        )
        if new:
            v2 = request.version == api_pb2.VOLUME_FS_VERSION_V2
            volume = Volume(volume_id, self._directory / (name or volume_id), v2)
            volume.begin()
            self.volumes[volume_id] = volume
        metadata = self.metadata(volume_id)
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=volume_id, version=metadata.version, metadata=metadata
        )

    @answers("VolumeHeartbeat")
    async def heartbeat(self, request: api_pb2.VolumeHeartbeatRequest, _: object) -> Empty:
        """Note nothing: ephemeral Volumes live as long as the plane."""
        return Empty()

    @answers("VolumeCommit")
    async def commit(
        self, request: api_pb2.VolumeCommitRequest, container: Container | None
    ) -> api_pb2.VolumeCommitResponse:
        """Let others see what a container has written."""
        view, pid = self._mounted(request.volume_id, container)
        await _at(view, pid, view.commit)
        return api_pb2.VolumeCommitResponse()

    @answers("VolumeReload")
    async def reload(
        self, request: api_pb2.VolumeReloadRequest, container: Container | None
    ) -> Empty:
        """Let a container see what others have committed."""
        view, pid = self._mounted(request.volume_id, container)
        if any(open_files(pid, view.target)):
            raise GRPCError(
                Status.FAILED_PRECONDITION, "there are open files preventing the operation"
            )
        await _at(view, pid, view.reload)
        return Empty()


async def _at(view: View, pid: int, action: Callable[[int], None]) -> None:
    """Commit or reload, one at a time in a Volume; nobody hears it if the container is killed."""
    try:
        await view.volume.alone(lambda: action(pid))
    except OSError as error:
        if view.path(pid).is_dir():
            raise
        raise GRPCError(Status.ABORTED, "the container has ended") from error
