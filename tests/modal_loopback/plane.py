"""The control plane: its parts put together, its life, and what tests do with it."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from grpclib.server import Server

from tests.modal_loopback import ledger, rooms
from tests.modal_loopback.apps import Apps
from tests.modal_loopback.blobs import Blobs
from tests.modal_loopback.calls import Calls
from tests.modal_loopback.containers import Containers
from tests.modal_loopback.faults import Faults
from tests.modal_loopback.functions import Functions
from tests.modal_loopback.images import Images
from tests.modal_loopback.ledger import CallRecord, ContainerRecord
from tests.modal_loopback.processes import Processes
from tests.modal_loopback.queues import Dicts, Queues
from tests.modal_loopback.volume_files import VolumeFiles
from tests.modal_loopback.volumes import Volumes
from tests.modal_loopback.wire import Endpoint, Wire

Value = TypeVar("Value")

START_SECONDS = 30.0
STOP_SECONDS = 5.0
SOCKET_PATH = 107
"""How long the path of a Unix socket may be."""

SOCKET_NAME = 28
"""How much of that a container's id takes, and a slash."""

HEARTBEAT_SECONDS = 1.0
LOOK_SECONDS = 1.0


class ControlPlane:
    """A Modal for one test, or for many; it serves from a thread of its own.

    Args:
        directory: Where it keeps Volumes, files, logs; made if it isn't there.
        token: The id and the secret that clients must show.
        secrets: The Secrets that exist, by name.
        port: Where clients reach it; 0 for any free port.

    Raises:
        NoRoomError: The system doesn't allow containers roots of their own.
    """

    def __init__(
        self,
        directory: Path,
        *,
        token: tuple[str, str] = ("ak-loopback", "as-loopback"),
        secrets: Mapping[str, Mapping[str, str]] = {},
        port: int = 0,
    ) -> None:
        problem = rooms.room_problem()
        if problem is not None:
            raise rooms.NoRoomError(problem)
        self._faults = Faults()
        self._scaledown_cap = 3.0
        self._directory = directory.absolute()
        self._token = token
        self._secrets = secrets
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="modal-loopback", daemon=True)
        self._ready: Future[None] = Future()
        self._stop = asyncio.Event()

    def __enter__(self) -> ControlPlane:
        """Begin to serve."""
        for name in ("blobs", "files", "volumes", "containers", "sockets"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
        (self._directory / "modal.toml").touch()
        self._sockets = self._directory / "sockets"
        if len(str(self._sockets)) + SOCKET_NAME > SOCKET_PATH:
            self._sockets = Path(tempfile.mkdtemp(prefix="mlb-", dir="/tmp"))
        self._wire = Wire(self._token, self.faults)
        self._blobs = Blobs(self._directory / "blobs")
        self._volumes = Volumes(self._directory / "volumes")
        self._images = Images(self._directory / "files", self._blobs, self._secrets)
        self._apps = Apps()
        functions = Functions(self._apps)
        self._calls = Calls(functions, self.faults)
        self._containers = Containers(
            self._directory / "containers",
            self._sockets,
            self._wire,
            functions,
            Processes(functions, self._images, self._volumes),
            self._calls,
            self._scaledown_cap,
        )
        self._calls.workers = self._containers
        self._apps.runners = functions.runners = self._containers
        self._wire.add(
            [
                self._apps,
                functions,
                self._images,
                self._volumes,
                VolumeFiles(self._volumes, self._blobs, self._directory / "files"),
                self._calls,
                self._containers,
                Queues(self.faults),
                Dicts(),
            ]
        )
        self._thread.start()
        self._ready.result(START_SECONDS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill all containers and stop serving.

        Raises:
            RuntimeError: A method of the plane failed; only if nothing else is being raised.
            TimeoutError: Something doesn't end.
        """
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_SECONDS)
        shutil.rmtree(self._sockets)
        if self._thread.is_alive():
            raise TimeoutError(f"the control plane hasn't ended within {STOP_SECONDS} s")
        if self._wire.errors and error is None:
            raise RuntimeError("the control plane failed:\n" + "\n".join(self._wire.errors))

    # What tests read

    @property
    def faults(self) -> Faults:
        """What goes wrong on purpose; it, or what it says, may be changed at any time."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        vars(self._faults).update(vars(faults))

    @property
    def scaledown_cap(self) -> float:
        """How many seconds a container may be idle at most, whatever its function says."""
        return self._scaledown_cap

    @scaledown_cap.setter
    def scaledown_cap(self, seconds: float) -> None:
        self._scaledown_cap = seconds
        self._loop.call_soon_threadsafe(self._containers.cap_scaledown, seconds)

    def environment(self) -> dict[str, str]:
        """Return the environment variables of a client of this plane."""
        return {
            "MODAL_SERVER_URL": f"http://127.0.0.1:{self._port}",
            "MODAL_TOKEN_ID": self._token[0],
            "MODAL_TOKEN_SECRET": self._token[1],
            "MODAL_CONFIG_PATH": str(self._directory / "modal.toml"),
            "MODAL_LOGLEVEL": "WARNING",
            "MODAL_HEARTBEAT_INTERVAL": str(HEARTBEAT_SECONDS),
        }

    @property
    def counts(self) -> Counter[str]:
        """How often each RPC was answered, by its name."""
        return self._wire.counts

    @property
    def unimplemented(self) -> Counter[str]:
        """How often each RPC was asked for that the plane doesn't know."""
        return self._wire.unimplemented

    @property
    def rates(self) -> dict[str, str] | None:
        """The price list that clients get; ``None`` for none."""
        return self._images.rates

    @rates.setter
    def rates(self, rates: dict[str, str] | None) -> None:
        self._images.rates = rates

    def calls(self) -> list[CallRecord]:
        """Return all calls, the oldest first."""
        return self._calls.records()

    def arguments(self, call: CallRecord) -> bytes:
        """Return a call's arguments as the client serialised them."""
        sent = call.arguments
        return self._blobs.read(sent) if isinstance(sent, str) else sent

    def containers(self) -> list[ContainerRecord]:
        """Return all containers, the oldest first."""
        return self._containers.records()

    def images(self) -> dict[str, list[str]]:
        """Return the lines of each Image's Dockerfiles, the lowest layer first."""
        return {image: self._images.commands(image) for image in list(self._images.images)}

    def bill(self, rates: Mapping[str, float] | None = None) -> float:
        """Return the dollars that all containers have cost so far, idle time included.

        Args:
            rates: Dollars a second by GPU, ``cpu`` and ``memory``; ``None`` for ``RATES``.
        """
        return ledger.total(self.containers(), ledger.RATES if rates is None else rates)

    def volume(self, name: str) -> Path:
        """Return the directory of what is committed to a Volume.

        Raises:
            KeyError: There is no such Volume.
        """
        return self._volumes.named(name)

    # What tests do

    def preempt(self, call_id: str) -> bool:
        """Preempt the container that runs a call; return False if none does."""
        return self._act(call_id, lambda container: self._containers.preempt(container))

    def crash(self, call_id: str) -> bool:
        """Kill the container that runs a call; return False if none does."""
        return self._act(call_id, lambda container: container.kill())

    def wait_for(self, predicate: Callable[[], Value], timeout: float = 30) -> Value:
        """Wait until ``predicate`` returns something true, and return it.

        Raises:
            TimeoutError: It doesn't in time.
        """
        until = time.monotonic() + timeout
        while not (value := predicate()):
            if time.monotonic() > until:
                states = Counter((call.function, call.status) for call in self.calls())
                raise TimeoutError(f"not true within {timeout} s; calls: {dict(states)}")
            time.sleep(0.02)
        return value

    def _act(self, call_id: str, action: Callable[..., None]) -> bool:
        async def act() -> bool:
            container = self._containers.running(call_id)
            if container is None or container.pid is None:
                return False
            action(container)
            return True

        return asyncio.run_coroutine_threadsafe(act(), self._loop).result(START_SECONDS)

    # Its thread

    def _serve(self) -> None:
        try:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._main())
        except BaseException as error:
            if self._ready.done():
                self._wire.errors.append(repr(error))
            else:
                self._ready.set_exception(error)
        finally:
            self._loop.close()

    async def _main(self) -> None:
        await self._blobs.start()
        server = Server([Endpoint(self._wire)])
        # Said to be TCP, so that asyncio switches Nagle's delays off.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        await server.start(sock=listener)
        self._ready.set_result(None)
        while not self._stop.is_set():
            self._apps.stop_lost()
            try:
                await asyncio.wait_for(self._stop.wait(), LOOK_SECONDS)
            except TimeoutError:
                continue
        await self._containers.stop()
        server.close()
        await server.wait_closed()
        await self._blobs.stop()
