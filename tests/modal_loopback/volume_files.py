"""What clients outside of containers do with the files of Volumes: list, read, put, remove."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.modal_loopback.blobs import Blobs
from tests.modal_loopback.volumes import Volumes, stamps
from tests.modal_loopback.wire import answers, missing, new_id

BLOCK_BYTES = 8 << 20
"""The client reads files in blocks of this size."""

Entry = api_pb2.FileEntry


class VolumeFiles:
    """Answers what clients want of the files of Volumes.

    Args:
        volumes: The Volumes.
        blobs: Where files are got from.
        files: Where the content of uploaded files is, by hash.
    """

    def __init__(self, volumes: Volumes, blobs: Blobs, files: Path) -> None:
        self._volumes = volumes
        self._blobs = blobs
        self._files = files

    @answers("VolumeListFiles")
    async def list_files(
        self, request: api_pb2.VolumeListFilesRequest, _: object
    ) -> AsyncIterator[api_pb2.VolumeListFilesResponse]:
        """List a file, or what is in a directory."""
        yield api_pb2.VolumeListFilesResponse(entries=self._entries(request))

    @answers("VolumeListFiles2")
    async def list_files_2(
        self, request: api_pb2.VolumeListFiles2Request, _: object
    ) -> AsyncIterator[api_pb2.VolumeListFiles2Response]:
        """Do the same for version 2."""
        yield api_pb2.VolumeListFiles2Response(entries=self._entries(request))

    def _entries(
        self, request: api_pb2.VolumeListFilesRequest | api_pb2.VolumeListFiles2Request
    ) -> list[api_pb2.FileEntry]:
        top = self._volumes.volume(request.volume_id).current
        place = self._place(top, request.path)
        if not place.is_dir():
            return [_entry(top, place)]
        found = place.rglob("*") if request.recursive else place.iterdir()
        return [_entry(top, each) for each in sorted(found)]

    async def _remove(
        self, request: api_pb2.VolumeRemoveFileRequest | api_pb2.VolumeRemoveFile2Request
    ) -> Empty:
        volume = self._volumes.volume(request.volume_id)
        name = _relative(request.path)
        if self._place(volume.current, request.path).is_dir() and not request.recursive:
            raise GRPCError(Status.INVALID_ARGUMENT, f"{request.path!r} is a directory")

        def commit() -> None:
            before = stamps(volume.current)
            gone = {each: before[each] for each in before if f"{each}/".startswith(f"{name}/")}
            volume.commit(volume.current, gone, {})

        await volume.alone(commit)
        return Empty()

    def _place(self, top: Path, path: str) -> Path:
        place = top / _relative(path)
        if not os.path.lexists(place):
            raise missing(f"No such file or directory: {path!r}")
        return place

    @answers("VolumeGetFile2")
    async def get_file(
        self, request: api_pb2.VolumeGetFile2Request, _: object
    ) -> api_pb2.VolumeGetFile2Response:
        """Say where the blocks of a file can be got."""
        top = self._volumes.volume(request.volume_id).current
        place = self._place(top, request.path)
        if not place.is_file():
            raise missing(f"No such file: {request.path!r}")
        content = await asyncio.to_thread(place.read_bytes)
        urls = []
        for begin in range(0, len(content), BLOCK_BYTES):
            blob_id = new_id("bl")
            (self._blobs.directory / blob_id).write_bytes(content[begin : begin + BLOCK_BYTES])
            urls.append(self._blobs.url(blob_id))
        return api_pb2.VolumeGetFile2Response(get_urls=urls, size=len(content), len=len(content))

    @answers("VolumePutFiles")
    async def put_files(self, request: api_pb2.VolumePutFilesRequest, _: object) -> Empty:
        """Commit files whose content was uploaded before."""
        volume = self._volumes.volume(request.volume_id)
        after = stamps(volume.current)
        for file in request.files:
            name = _relative(file.filename)
            if request.disallow_overwrite_existing_files and name in after:
                raise GRPCError(Status.ALREADY_EXISTS, f"{file.filename}: already exists")
        with tempfile.TemporaryDirectory(dir=self._files) as name:
            staged = Path(name)
            for file in request.files:
                place = staged / _relative(file.filename)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self._files / file.sha256_hex, place)
                place.chmod(file.mode or 0o644)
            await volume.alone(lambda: volume.commit(staged, {}, stamps(staged)))
        return Empty()

    @answers("VolumeRemoveFile")
    async def remove_file(self, request: api_pb2.VolumeRemoveFileRequest, _: object) -> Empty:
        """Remove a file or a directory."""
        return await self._remove(request)

    @answers("VolumeRemoveFile2")
    async def remove_file_2(self, request: api_pb2.VolumeRemoveFile2Request, _: object) -> Empty:
        """Do the same for version 2."""
        return await self._remove(request)


def _relative(path: str) -> str:
    """Return a path in a Volume as one below its directory."""
    return str(PurePosixPath("/", path).relative_to("/"))


def _entry(top: Path, place: Path) -> api_pb2.FileEntry:
    status = place.lstat()
    kind = Entry.FILE
    if stat.S_ISLNK(status.st_mode):
        kind = Entry.SYMLINK
    elif stat.S_ISDIR(status.st_mode):
        kind = Entry.DIRECTORY
    return Entry(
        path=str(place.relative_to(top)), type=kind, mtime=int(status.st_mtime), size=status.st_size
    )
