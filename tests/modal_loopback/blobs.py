"""A small HTTP server in place of Modal's blob storage."""

from __future__ import annotations

import hashlib
from pathlib import Path

from aiohttp import web

LARGEST = 1 << 30


class Blobs:
    """Keeps what the client uploads, one file a blob.

    Args:
        directory: Where to keep it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._runner: web.AppRunner | None = None
        self._address = ""

    async def start(self) -> None:
        """Begin to serve, on a free port of 127.0.0.1."""
        app = web.Application(client_max_size=LARGEST)
        app.router.add_put("/{blob}", self._put)
        app.router.add_get("/{blob}", self._get)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self._address = f"http://{host}:{port}"

    async def stop(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    def url(self, blob_id: str) -> str:
        """Return where a blob is put and got."""
        return f"{self._address}/{blob_id}"

    def read(self, blob_id: str) -> bytes:
        """Return a blob's content."""
        return (self.directory / blob_id).read_bytes()

    async def _put(self, request: web.Request) -> web.Response:
        content = await request.read()
        (self.directory / request.match_info["blob"]).write_bytes(content)
        # The client compares this with the MD5 of what it sent.
        return web.Response(headers={"ETag": f'"{hashlib.md5(content).hexdigest()}"'})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        place = self.directory / request.match_info["blob"]
        if not place.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(place)
