"""A container as a process: what it is started with, and how it is ended."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from modal_proto import api_pb2

from tests.modal_loopback import rooms
from tests.modal_loopback.apps import ENVIRONMENT
from tests.modal_loopback.functions import Function, Functions
from tests.modal_loopback.images import Images
from tests.modal_loopback.ledger import ContainerRecord
from tests.modal_loopback.volumes import View, Volumes
from tests.modal_loopback.wire import Bell, new_id

if TYPE_CHECKING:
    from tests.modal_loopback.calls import Input

HEARTBEAT_SECONDS = 5.0
"""How often a container asks for cancellations; it is kept waiting for one that long."""

LEAST_CPU = 0.125
LEAST_MEMORY_MIB = 128
"""What Modal gives a container that asks for nothing."""


@dataclass(eq=False)
class Container:
    """A container.

    Attributes:
        id: ``ta-…``.
        function: What it runs.
        definition: What that was when it started.
        gpu: The GPU given to it.
        directory: What it has on this machine.
        inputs: What it works on, by id.
        views: Its Volumes.
        process: Its process, once there is one.
        started: When its process began; 0 before.
        ended: When its process ended.
        asked: Whether it has ever asked for an input, so that its start is over.
        stopping: Whether it gets no more inputs.
        preempted: Whether it was told to make room.
        cancelled: Ids of the inputs that it is told to give up.
        failure: What it said of why it couldn't start.
        bell: Rings when there is something to tell it.
    """

    id: str
    function: Function
    definition: api_pb2.Function
    gpu: str | None
    directory: Path
    inputs: dict[str, Input] = field(default_factory=dict)
    views: list[View] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None
    started: float = 0.0
    ended: float | None = None
    asked: bool = False
    stopping: bool = False
    preempted: bool = False
    cancelled: set[str] = field(default_factory=set)
    failure: api_pb2.GenericResult | None = None
    bell: Bell = field(default_factory=Bell)

    @classmethod
    def of(cls, function: Function, home: Path) -> Container:
        """Return a new container for a function, with a directory in ``home``."""
        container_id = new_id("ta")
        gpu = next(iter(function.gpus), None)
        return cls(container_id, function, function.definition, gpu, home / container_id)

    @property
    def pid(self) -> int | None:
        """Its process id, while it runs."""
        if self.process is None or self.process.returncode is not None:
            return None
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """What its process ended with; a signal is negative."""
        return None if self.process is None else self.process.returncode

    @property
    def record(self) -> ContainerRecord:
        """How it stands, for tests."""
        resources = self.definition.resources
        return ContainerRecord(
            id=self.id,
            function=self.function.tag,
            app=self.function.app.name,
            gpu=self.gpu,
            cpu=resources.milli_cpu / 1000 or LEAST_CPU,
            memory_mib=resources.memory_mb or LEAST_MEMORY_MIB,
            started=self.started,
            ended=self.ended,
            exit_code=self.exit_code,
            seconds=(self.ended or time.time()) - self.started,
            preempted=self.preempted,
            log=self.log,
        )

    @property
    def log(self) -> Path:
        """The file of its output."""
        return self.directory / "log"

    def interrupt(self) -> None:
        """Send its process SIGINT."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """Kill it with all its processes."""
        self.stopping = True
        if self.process is not None and self.ended is None:
            with suppress(ProcessLookupError):  # it has just ended
                os.killpg(self.process.pid, signal.SIGKILL)


class Processes:
    """Starts containers' processes.

    Args:
        functions: What they run.
        images: What they find.
        volumes: Their Volumes.
    """

    def __init__(self, functions: Functions, images: Images, volumes: Volumes) -> None:
        self._functions = functions
        self._images = images
        self._volumes = volumes

    async def run(self, container: Container, socket: Path) -> None:
        """Run a container's process until it ends by itself.

        Args:
            container: It gets its directory, its Volumes and its process.
            socket: Where the control plane listens to it.
        """
        container.views = [
            self._volumes.view(mount) for mount in container.definition.volume_mounts
        ]
        command = await asyncio.to_thread(self._prepare, container, socket)
        if container.stopping:
            return
        with container.log.open("wb") as log:
            container.started = time.time()
            container.process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await container.process.wait()

    async def end(self, container: Container) -> None:
        """Make sure that nothing of a container runs any more, and let go of its Volumes."""
        container.kill()  # also what its process has left behind
        if container.process is not None:
            await container.process.wait()
            container.ended = time.time()
        for view in container.views:
            view.volume.release(view.version)

    def _prepare(self, container: Container, socket: Path) -> list[str]:
        container.directory.mkdir(parents=True)
        definition = container.definition
        read_only = [mount.read_only for mount in definition.volume_mounts]
        return rooms.prepare(
            container.directory,
            socket=socket,
            arguments=self._arguments(container).SerializeToString(),
            files=self._images.files(definition),
            volumes=[
                rooms.VolumeLayer(view.target, view.volume.directory(view.version), fixed)
                for view, fixed in zip(container.views, read_only, strict=True)
            ],
            environment=self._environment(container),
            command=[sys.executable, "-m", "modal._container_entrypoint"],
            work_directory=self._images.work_directory(definition),
        )

    def _arguments(self, container: Container) -> api_pb2.ContainerArguments:
        function = container.function
        variation = function.variation
        layout = self._functions.layout(function.app)
        for dependency in container.definition.object_dependencies:
            thing = layout.objects.add(object_id=dependency.object_id)
            if dependency.object_id in self._volumes.volumes:
                thing.volume_metadata.CopyFrom(self._volumes.metadata(dependency.object_id))
        return api_pb2.ContainerArguments(
            task_id=container.id,
            function_id=function.id,
            app_id=function.app.id,
            function_def=container.definition,
            serialized_params=variation.serialized_params if variation else b"",
            environment_name=ENVIRONMENT,
            app_layout=layout,
        )

    def _environment(self, container: Container) -> dict[str, str]:
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": rooms.HOME,
            "PYTHONPATH": rooms.HOME,
            "PYTHONUNBUFFERED": "1",
            **self._images.environment(container.definition),
            "MODAL_SERVER_URL": f"unix://{rooms.SOCKET}",
            "MODAL_CONTAINER_ARGUMENTS_PATH": rooms.ARGUMENTS,
            "MODAL_IS_REMOTE": "1",
            "MODAL_TASK_ID": container.id,
            "MODAL_IMAGE_ID": container.definition.image_id,
            "MODAL_ENVIRONMENT": ENVIRONMENT,
            "MODAL_HEARTBEAT_INTERVAL": str(HEARTBEAT_SECONDS),
        }
