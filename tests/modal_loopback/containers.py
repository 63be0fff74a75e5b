"""Containers: when one starts and ends, what it works on, and what it is told."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.empty_pb2 import Empty
from grpclib.server import Server
from modal_proto import api_pb2

from tests.modal_loopback import rooms
from tests.modal_loopback.apps import App
from tests.modal_loopback.calls import Calls, Input, Result
from tests.modal_loopback.functions import Function, Functions
from tests.modal_loopback.ledger import ContainerRecord
from tests.modal_loopback.processes import HEARTBEAT_SECONDS, Container, Processes
from tests.modal_loopback.wire import Bell, Endpoint, Wire, answers

GRACE_SECONDS = 30.0
"""How long a preempted container may clean up."""

CANCEL_SECONDS = 30.0
"""How long a cancelled call may go on; then its container is killed."""

IDLE_SECONDS = 60.0
"""How long a container waits for another input, where its function doesn't say."""

LIMIT_SECONDS = 300
"""How long a start and an input may take, where the function doesn't say."""

LEAST_START_SECONDS = 30
"""How long a start may take at least: by default the client allows it no more than an input, and a
busy machine starts a container slowly."""

FAILED_STARTS = 2
"""How many starts in a row may fail; then the calls that wait for one fail, too."""

EPHEMERAL_CRASHES = 3
"""How many crashes fail a call in an ephemeral app (``Faults.crash_limit``)."""


@dataclass(eq=False)
class Pool:
    """The containers of one function or variant, and the inputs that wait for one.

    Attributes:
        waiting: The inputs, the next first.
        containers: The containers that have not ended.
        failed_starts: How many containers in a row have ended before they asked for an input.
        bell: Rings when a container that waits for an input should look again.
    """

    waiting: deque[Input] = field(default_factory=deque)
    containers: list[Container] = field(default_factory=list)
    failed_starts: int = 0
    bell: Bell = field(default_factory=Bell)


class Containers:
    """Starts and ends containers, hands inputs to them, and answers what they ask.

    Args:
        directory: Where they have their roots and logs.
        sockets: A directory with a short path, for their sockets.
        wire: What answers them.
        functions: What they run.
        processes: What starts them.
        calls: What they are for.
        scaledown_cap: How long a container may be idle at most.
    """

    def __init__(
        self,
        directory: Path,
        sockets: Path,
        wire: Wire,
        functions: Functions,
        processes: Processes,
        calls: Calls,
        scaledown_cap: float,
    ) -> None:
        self._directory = directory
        self._sockets = sockets
        self._wire = wire
        self._faults = wire.faults
        self._functions = functions
        self._processes = processes
        self._calls = calls
        self._scaledown_cap = scaledown_cap
        self._all: list[Container] = []
        self._pools: dict[Function, Pool] = {}
        self._lives: set[asyncio.Task[None]] = set()
        self._closed = False

    def records(self) -> list[ContainerRecord]:
        """Return all containers that ever had a process, the oldest first."""
        return [container.record for container in list(self._all) if container.started]

    def running(self, call_id: str) -> Container | None:
        """Return the container that works on a call now."""
        call = self._calls.calls.get(call_id)
        items = call.inputs if call is not None else []
        return next((item.container for item in items if item.container), None)

    # What others want of them

    def cap_scaledown(self, seconds: float) -> None:
        """Let containers be idle for so long at most, those that are idle now, too."""
        self._scaledown_cap = seconds
        for pool in self._pools.values():
            pool.bell.ring()

    def add(self, item: Input) -> None:
        """Let a container work on an input."""
        pool = self._pools.setdefault(item.call.function, Pool())
        pool.waiting.append(item)
        self._scale(item.call.function, pool)

    def drop(self, item: Input, terminate: bool) -> None:
        """Take a cancelled input away, from its queue or from its container."""
        container = item.container
        if container is None:
            waiting = self._pools[item.call.function].waiting
            if item in waiting:
                waiting.remove(item)
        elif terminate:
            container.kill()
        else:
            container.cancelled.add(item.id)
            container.bell.ring()
            self._later(CANCEL_SECONDS, item, container.kill)

    def preempt(self, container: Container) -> None:
        """Tell a container to make room; what it works on starts again in another one."""
        container.preempted = True
        container.stopping = True
        container.interrupt()
        asyncio.get_running_loop().call_later(GRACE_SECONDS, container.kill)

    def renew(self, function: Function) -> None:
        """End the containers of older versions of a function when they are idle."""
        self._retire(container for container in self._all if container.function.base is function)

    def stop_app(self, app: App) -> None:
        """End an app's containers and calls."""
        for call in list(self._calls.calls.values()):
            if call.function.app is app:
                self._calls.terminate(call, containers=True)
        self._retire(container for container in self._all if container.function.app is app)

    async def stop(self) -> None:
        """Kill all containers and wait for their end."""
        self._closed = True
        lives = list(self._lives)
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)

    def _retire(self, containers: Iterable[Container]) -> None:
        """Give containers no more inputs, so that they end."""
        for container in containers:
            container.stopping = True
            if container.function in self._pools:
                self._pools[container.function].bell.ring()

    def _later(self, seconds: float, item: Input, action: Callable[[], None]) -> None:
        """Act after a while, if the input is then still where it is now."""
        container, start = item.container, item.starts

        def act() -> None:
            if item.container is container and item.starts == start:
                action()

        asyncio.get_running_loop().call_later(seconds, act)

    # How they live

    def _scale(self, function: Function, pool: Pool) -> None:
        """Start as many containers as there are inputs that no idle one will take."""
        pool.bell.ring()
        free = sum(not each.stopping and not each.inputs for each in pool.containers)
        most = function.definition.autoscaler_settings.max_containers or math.inf
        while free < len(pool.waiting) and len(pool.containers) < most and not self._closed:
            container = Container.of(function, self._directory)
            self._all.append(container)
            pool.containers.append(container)
            life = asyncio.create_task(self._live(container, pool))
            self._lives.add(life)
            life.add_done_callback(self._lives.discard)
            free += 1

    async def _live(self, container: Container, pool: Pool) -> None:
        """Accompany a container from its start to its end."""
        server = Server([Endpoint(self._wire, container)])
        socket = self._sockets / container.id
        try:
            if self._faults.cold_start:
                await asyncio.sleep(self._faults.cold_start)
            await server.start(path=str(socket))
            limit = container.definition.startup_timeout_secs or LIMIT_SECONDS
            limit = max(limit, LEAST_START_SECONDS)
            asyncio.get_running_loop().call_later(limit, _check_start, container, limit)
            await self._processes.run(container, socket)
        except Exception as error:
            self._wire.errors.append(f"container {container.id}: {error!r}")
            container.failure = Result(
                status=Result.GENERIC_STATUS_INIT_FAILURE, exception=repr(error)
            )
        finally:
            await self._processes.end(container)
            server.close()
            socket.unlink(missing_ok=True)
            self._bury(container, pool)
        await asyncio.to_thread(rooms.remove, container.directory)

    def _bury(self, container: Container, pool: Pool) -> None:
        """Take a container out of its pool, and see to what it leaves unfinished."""
        pool.containers.remove(container)
        for item in container.inputs.values():
            if item.container is container and item.output is None:
                self._orphan(container, item)
        if container.asked:
            pool.failed_starts = 0
        elif not container.stopping or container.failure is not None:
            pool.failed_starts += 1
            if pool.failed_starts >= FAILED_STARTS:
                pool.failed_starts = 0
                self._give_up(container, pool)
        if not container.function.app.stopped:
            self._scale(container.function, pool)

    def _orphan(self, container: Container, item: Input) -> None:
        """Start an input again whose container has ended under it, or call it failed."""
        if item.call.cancelled:
            self._calls.fail(item, Result.GENERIC_STATUS_TERMINATED, "Input was cancelled by user")
            return
        if not container.preempted:
            item.crashes += 1
            limit = self._faults.crash_limit
            if limit is None and not container.function.app.deployed:
                limit = EPHEMERAL_CRASHES
            if limit is not None and item.crashes >= limit:
                why = f"the container of {item.id} ended with exit code {container.exit_code}"
                self._calls.fail(item, Result.GENERIC_STATUS_INTERNAL_FAILURE, why)
                return
        item.container = None
        self._pools[container.function].waiting.appendleft(item)

    def _give_up(self, container: Container, pool: Pool) -> None:
        """Fail the inputs that wait for a container, since none starts."""
        failure = container.failure
        if failure is None:
            tail = container.log.read_text(errors="replace")[-2000:]
            why = f"container {container.id} did not start: {tail}"
            failure = Result(status=Result.GENERIC_STATUS_INIT_FAILURE, exception=why)
        while pool.waiting:
            self._calls.settle(
                pool.waiting.popleft(), api_pb2.FunctionPutOutputsItem(result=failure)
            )

    # What they ask

    @answers("ContainerHello")
    async def hello(self, request: Empty, container: Container) -> Empty:
        """Welcome a container."""
        return Empty()

    @answers("ContainerHeartbeat")
    async def heartbeat(
        self, request: api_pb2.ContainerHeartbeatRequest, container: Container
    ) -> api_pb2.ContainerHeartbeatResponse:
        """Tell a container of cancellations, as soon as there are any.

        It is told again while it works on, since it may not have begun when it was told first.
        """
        if not container.cancelled & container.inputs.keys():
            await container.bell.wait(HEARTBEAT_SECONDS * 0.95)
        cancelled = container.cancelled & container.inputs.keys()
        if not cancelled:
            return api_pb2.ContainerHeartbeatResponse()
        return api_pb2.ContainerHeartbeatResponse(
            cancel_input_event=api_pb2.CancelInputEvent(input_ids=cancelled)
        )

    @answers("FunctionGetInputs")
    async def get_inputs(
        self, request: api_pb2.FunctionGetInputsRequest, container: Container
    ) -> api_pb2.FunctionGetInputsResponse:
        """Give a container its next input, or tell it to end."""
        container.asked = True
        pool = self._pools[container.function]
        window = container.definition.autoscaler_settings.scaledown_window or IDLE_SECONDS
        idle_since = time.monotonic()
        while not container.stopping:
            if pool.waiting:
                return self._hand(container, pool.waiting.popleft())
            if container.inputs:
                idle_since = time.monotonic()
            left = idle_since + min(window, self._scaledown_cap) - time.monotonic()
            container.stopping = left <= 0
            await pool.bell.wait(left)
        last = api_pb2.FunctionGetInputsItem(kill_switch=True)
        return api_pb2.FunctionGetInputsResponse(inputs=[last])

    def _hand(self, container: Container, item: Input) -> api_pb2.FunctionGetInputsResponse:
        container.inputs[item.id] = item
        item.container = container
        item.starts += 1
        limit = container.definition.timeout_secs or LIMIT_SECONDS
        self._later(limit, item, lambda: self._overdue(item, container, limit))
        self._strike(item, container)
        message = api_pb2.FunctionGetInputsItem(
            input_id=item.id,
            input=item.message,
            function_call_id=item.call.id,
            function_call_invocation_type=item.call.invocation_type,
            retry_count=item.retry_count,
            function_map_idx=item.index,
        )
        return api_pb2.FunctionGetInputsResponse(inputs=[message])

    def _overdue(self, item: Input, container: Container, limit: float) -> None:
        why = f"Task's current input {item.id} hit its timeout of {limit}s"
        self._calls.fail(item, Result.GENERIC_STATUS_TIMEOUT, why)
        container.kill()

    def _strike(self, item: Input, container: Container) -> None:
        """Decide whether a fault will end this container under this input."""
        faults = self._faults
        if faults.preempt_after is not None and "preempt" not in item.struck:
            item.struck.add("preempt")
            if faults.strikes(faults.preempt_share):
                self._later(faults.preempt_after, item, lambda: self.preempt(container))
        if faults.crash_share and "crash" not in item.struck:
            item.struck.add("crash")
            if faults.strikes(faults.crash_share):
                self._later(faults.crash_after, item, container.kill)

    @answers("FunctionPutOutputs")
    async def put_outputs(
        self, request: api_pb2.FunctionPutOutputsRequest, container: Container
    ) -> Empty:
        """Note what came of inputs; what was taken from the container counts no more."""
        for output in request.outputs:
            item = container.inputs.pop(output.input_id, None)
            if item is not None and item.container is container:
                self._calls.settle(item, output, container.id)
        return Empty()

    @answers("TaskResult")
    async def task_result(self, request: api_pb2.TaskResultRequest, container: Container) -> Empty:
        """Note why a container can't start."""
        container.failure = request.result
        return Empty()

    @answers("ContainerStop")
    async def container_stop(
        self, request: api_pb2.ContainerStopRequest, container: Container | None
    ) -> api_pb2.ContainerStopResponse:
        """Let a container end after what it works on."""
        self._retire(each for each in self._all if each.id == request.task_id)
        return api_pb2.ContainerStopResponse()

    @answers("FunctionGetDynamicConcurrency")
    async def concurrency(
        self, request: api_pb2.FunctionGetDynamicConcurrencyRequest, container: Container
    ) -> api_pb2.FunctionGetDynamicConcurrencyResponse:
        """Allow a container all the inputs at a time that it can take."""
        return api_pb2.FunctionGetDynamicConcurrencyResponse(concurrency=request.max_concurrency)

    @answers("FunctionGetCurrentStats")
    async def stats(
        self, request: api_pb2.FunctionGetCurrentStatsRequest, _: object
    ) -> api_pb2.FunctionStats:
        """Count what a function has waiting and running."""
        pool = self._pools.get(self._functions.function(request.function_id), Pool())
        return api_pb2.FunctionStats(
            backlog=len(pool.waiting),
            num_total_tasks=len(pool.containers),
            num_running_inputs=sum(len(each.inputs) for each in pool.containers),
        )


def _check_start(container: Container, limit: float) -> None:
    if not container.asked and container.pid is not None:
        why = f"container {container.id} did not start within {limit} s"
        container.failure = Result(status=Result.GENERIC_STATUS_INIT_FAILURE, exception=why)
        container.kill()
