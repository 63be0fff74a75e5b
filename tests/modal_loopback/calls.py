"""Calls of functions: their inputs, what came of them, and who waits for that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.modal_loopback.faults import Faults
from tests.modal_loopback.functions import Function, Functions
from tests.modal_loopback.ledger import CallRecord
from tests.modal_loopback.wire import Bell, answers, missing, new_id

if TYPE_CHECKING:
    from tests.modal_loopback.containers import Container

Result = api_pb2.GenericResult

RETRIED = (Result.GENERIC_STATUS_FAILURE, Result.GENERIC_STATUS_TIMEOUT)
"""What a function's own retry policy covers."""

DATA_HOLD_SECONDS = 10.0

MAX_OUTSTANDING = 1000
"""How many inputs of a map the client may have on the way."""


@dataclass(eq=False)
class Input:
    """One input of a call.

    Attributes:
        id: ``in-…``.
        call: Whose it is.
        index: Which it is in a map.
        message: The arguments, as the client sent them.
        retry_count: How often the function's retry policy has started it again.
        starts: How often it began in a container.
        crashes: How often its container died under it.
        struck: The faults that have had it already.
        container: The container that works on it now.
        output: What came of it; ``None`` until then.
    """

    id: str
    call: Call
    index: int
    message: api_pb2.FunctionInput
    retry_count: int = 0
    starts: int = 0
    crashes: int = 0
    struck: set[str] = field(default_factory=set)
    container: Container | None = None
    output: api_pb2.FunctionGetOutputsItem | None = None


@dataclass(eq=False)
class Call:
    """A call, of one input or of a map's many.

    Attributes:
        id: ``fc-…``.
        function: What is called.
        invocation_type: Whether somebody waits for it.
        spawned_at: When it arrived.
        inputs: Its inputs so far.
        outputs: The inputs that are over, in that order.
        chunks: What a generator has yielded.
        cancelled: Whether its client has cancelled it.
        expired: Whether a client was told that its result has expired.
        bell: Rings at every output and chunk.
    """

    id: str
    function: Function
    invocation_type: int
    spawned_at: float
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Input] = field(default_factory=list)
    chunks: list[api_pb2.DataChunk] = field(default_factory=list)
    cancelled: bool = False
    expired: bool = False
    bell: Bell = field(default_factory=Bell)

    @property
    def status(self) -> str:
        """How it stands, in a word of ``CallRecord``."""
        if self.expired:
            return "expired"
        if any(each.output is None for each in self.inputs) or not self.inputs:
            return "running" if any(each.container for each in self.inputs) else "pending"
        statuses = {each.output.result.status for each in self.inputs if each.output}
        if self.cancelled or Result.GENERIC_STATUS_TERMINATED in statuses:
            return "cancelled"
        return "done" if statuses == {Result.GENERIC_STATUS_SUCCESS} else "failed"

    @property
    def record(self) -> CallRecord:
        """How it stands, for tests; all that hpo calls has one input."""
        definition = self.function.definition
        message = self.inputs[0].message if self.inputs else api_pb2.FunctionInput()
        return CallRecord(
            id=self.id,
            function=self.function.tag,
            app=self.function.app.name,
            spawned_at=self.spawned_at,
            status=self.status,
            starts=sum(each.starts for each in self.inputs),
            gpu=self.function.gpus,
            timeout=definition.timeout_secs,
            region=",".join(definition.scheduler_placement.regions),
            arguments=message.args_blob_id or message.args,
        )


class Workers(Protocol):
    """What works on inputs."""

    def add(self, item: Input) -> None:
        """Let a container work on an input."""

    def drop(self, item: Input, terminate: bool) -> None:
        """Take a cancelled input away, from its queue or from its container."""


class Calls:
    """Answers what concerns calls.

    Args:
        functions: What can be called.
        faults: What goes wrong on purpose.
    """

    workers: Workers

    def __init__(self, functions: Functions, faults: Faults) -> None:
        self.calls: dict[str, Call] = {}
        self.inputs: dict[str, Input] = {}
        self._functions = functions
        self._faults = faults

    def records(self) -> list[CallRecord]:
        """Return all calls, the oldest first."""
        return [call.record for call in list(self.calls.values())]

    def settle(self, item: Input, output: api_pb2.FunctionPutOutputsItem, by: str = "") -> None:
        """Note what came of an input, or start it again if its function retries that."""
        item.container = None
        if item.output is not None:
            return
        policy = item.call.function.definition.retry_policy
        retry = output.result.status in RETRIED and item.retry_count < policy.retries
        if retry and not item.call.cancelled:
            factor = (policy.backoff_coefficient or 1.0) ** item.retry_count
            delay = min(policy.initial_delay_ms * factor, policy.max_delay_ms or 60_000) / 1000
            item.retry_count += 1
            asyncio.get_running_loop().call_later(delay, self._again, item)
            return
        result = output.result
        if item.call.cancelled and result.status != Result.GENERIC_STATUS_TERMINATED:
            result = Result(status=Result.GENERIC_STATUS_TERMINATED)
        item.output = api_pb2.FunctionGetOutputsItem(
            result=result,
            idx=item.index,
            input_id=item.id,
            data_format=output.data_format,
            task_id=by,
            input_started_at=output.input_started_at,
            output_created_at=output.output_created_at or time.time(),
            retry_count=item.retry_count,
        )
        item.call.outputs.append(item)
        item.call.bell.ring()

    def _again(self, item: Input) -> None:
        if item.output is None:
            self.workers.add(item)

    def fail(self, item: Input, status: int, why: str) -> None:
        """End an input whose container can't do so itself."""
        self.settle(
            item,
            api_pb2.FunctionPutOutputsItem(result=Result(status=status, exception=why)),
            item.container.id if item.container else "",
        )

    def _call(self, call_id: str) -> Call:
        if self._faults.unknown_calls or call_id not in self.calls:
            raise missing(f"Function call {call_id!r} not found")
        return self.calls[call_id]

    def _put(
        self, call: Call, items: Iterable[api_pb2.FunctionPutInputsItem]
    ) -> list[api_pb2.FunctionPutInputsResponseItem]:
        put = []
        for message in items:
            item = Input(new_id("in"), call, message.idx, message.input)
            self.inputs[item.id] = item
            call.inputs.append(item)
            self.workers.add(item)
            put.append(
                api_pb2.FunctionPutInputsResponseItem(
                    idx=item.index, input_id=item.id, input_jwt=item.id
                )
            )
        return put

    @answers("FunctionMap")
    async def call(
        self, request: api_pb2.FunctionMapRequest, _: object
    ) -> api_pb2.FunctionMapResponse:
        """Begin a call, with its input if there is just one."""
        function = self._functions.function(request.function_id)
        if function.app.stopped:
            raise missing(f"App {function.app.id!r} has stopped")
        call = Call(new_id("fc"), function, request.function_call_invocation_type, time.time())
        self.calls[call.id] = call
        return api_pb2.FunctionMapResponse(
            function_call_id=call.id,
            pipelined_inputs=self._put(call, request.pipelined_inputs),
            retry_policy=function.definition.retry_policy,
            function_call_jwt=call.id,
            max_inputs_outstanding=MAX_OUTSTANDING,
        )

    @answers("FunctionPutInputs")
    async def put_inputs(
        self, request: api_pb2.FunctionPutInputsRequest, _: object
    ) -> api_pb2.FunctionPutInputsResponse:
        """Add inputs to a call."""
        call = self._call(request.function_call_id)
        return api_pb2.FunctionPutInputsResponse(inputs=self._put(call, request.inputs))

    @answers("FunctionFinishInputs")
    async def finish_inputs(self, request: api_pb2.FunctionFinishInputsRequest, _: object) -> Empty:
        """Note nothing: the client counts."""
        return Empty()

    @answers("FunctionGetOutputs")
    async def outputs(
        self, request: api_pb2.FunctionGetOutputsRequest, _: object
    ) -> api_pb2.FunctionGetOutputsResponse:
        """Return what came of a call's inputs; wait for something, if asked to."""
        call = self._call(request.function_call_id)
        first = int(request.last_entry_id.partition("-")[0] or 0)
        until = time.monotonic() + request.timeout
        while True:
            call.expired = call.expired or self._faults.expire_results
            over = [] if call.expired else call.outputs[first:]
            found = [each for each in over if _wanted(each, request)]
            left = until - time.monotonic()
            if found or left <= 0:
                break
            await call.bell.wait(left)
        left_over = 0 if call.expired else sum(each.output is None for each in call.inputs)
        return api_pb2.FunctionGetOutputsResponse(
            idxs=[each.index for each in found],
            outputs=[each.output for each in found],
            last_entry_id=f"{len(call.outputs) if found else first}-0",
            num_unfinished_inputs=left_over,
        )

    @answers("FunctionCallFromId")
    async def from_id(
        self, request: api_pb2.FunctionCallFromIdRequest, _: object
    ) -> api_pb2.FunctionCallFromIdResponse:
        """Find a call by its id."""
        call = self._call(request.function_call_id)
        return api_pb2.FunctionCallFromIdResponse(
            function_call_id=call.id, num_inputs=len(call.inputs)
        )

    @answers("FunctionCallCancel")
    async def cancel(self, request: api_pb2.FunctionCallCancelRequest, _: object) -> Empty:
        """Cancel a call: what waits is over, what runs is told."""
        call = self._call(request.function_call_id)
        self.terminate(call, request.terminate_containers)
        return Empty()

    def terminate(self, call: Call, containers: bool) -> None:
        """Cancel what is left of a call; with ``containers``, kill those that work on it."""
        left = [item for item in call.inputs if item.output is None]
        call.cancelled = call.cancelled or bool(left)
        for item in left:
            running = item.container is not None
            self.workers.drop(item, containers)
            if not running:
                self.fail(item, Result.GENERIC_STATUS_TERMINATED, "Input was cancelled by user")

    @answers("FunctionCallPutDataOut")
    async def put_data(self, request: api_pb2.FunctionCallPutDataRequest, _: object) -> Empty:
        """Keep what a generator yields."""
        call = self._call(request.function_call_id)
        call.chunks.extend(request.data_chunks)
        call.bell.ring()
        return Empty()

    @answers("FunctionCallGetDataOut")
    async def get_data(
        self, request: api_pb2.FunctionCallGetDataRequest, _: object
    ) -> AsyncIterator[api_pb2.DataChunk]:
        """Stream what a generator has yielded."""
        call = self._call(request.function_call_id)
        until = time.monotonic() + DATA_HOLD_SECONDS
        sent = 0
        while True:
            for chunk in call.chunks[sent:]:
                if chunk.index > request.last_index:
                    yield chunk
            sent = len(call.chunks)
            if (left := until - time.monotonic()) <= 0:
                return
            await call.bell.wait(left)


def _wanted(item: Input, request: api_pb2.FunctionGetOutputsRequest) -> bool:
    return not request.HasField("start_idx") or request.start_idx <= item.index <= request.end_idx
