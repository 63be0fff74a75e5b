"""Queues and Dicts."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.modal_loopback.apps import ENVIRONMENT
from tests.modal_loopback.faults import Faults
from tests.modal_loopback.wire import Bell, answers, missing, new_id

PARTITION_ITEMS = 5000
ITEM_BYTES = 1 << 20
KEY_BYTES = 64
REPEAT_SECONDS = 0.05
"""How long after its first delivery an item comes once more (``Faults.repeat_queue_gets``)."""


@dataclass
class Queue:
    """A Queue: its partitions, and a bell that rings when something is put into one."""

    partitions: defaultdict[bytes, deque[bytes]] = field(default_factory=lambda: defaultdict(deque))
    bell: Bell = field(default_factory=Bell)


def found_or_made(
    names: dict[str, str], kind: str, prefix: str, name: str, creation_type: int
) -> tuple[str, bool]:
    """Return the id of a named object, and whether it is new.

    Args:
        names: Ids by name, of this kind; a new one is added.
        kind: What errors call it.
        prefix: What its ids begin with.
        name: Its name; ephemeral ones have none.
        creation_type: Whether it may, or must, be made.
    """
    if creation_type == api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL:
        return new_id(prefix), True
    if name in names:
        if creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            raise GRPCError(Status.ALREADY_EXISTS, f"{kind} '{name}' already exists")
        return names[name], False
    if creation_type == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
        raise missing(f"{kind} '{name}' not found in environment '{ENVIRONMENT}'")
    names[name] = new_id(prefix)
    return names[name], True


class Queues:
    """Answers what concerns Queues."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._names: dict[str, str] = {}
        self._queues: dict[str, Queue] = {}

    def _queue(self, queue_id: str) -> Queue:
        if queue_id not in self._queues:
            raise missing(f"Queue {queue_id!r} not found")
        return self._queues[queue_id]

    @answers("QueueGetOrCreate")
    async def get_or_create(
        self, request: api_pb2.QueueGetOrCreateRequest, _: object
    ) -> api_pb2.QueueGetOrCreateResponse:
        """Find a Queue by name, or make one."""
        queue_id, new = found_or_made(
            self._names, "Queue", "qu", request.deployment_name, request.object_creation_type
        )
        if new:
            self._queues[queue_id] = Queue()
        metadata = api_pb2.QueueMetadata(name=request.deployment_name)
        return api_pb2.QueueGetOrCreateResponse(queue_id=queue_id, metadata=metadata)

    @answers("QueueGetById")
    async def get_by_id(
        self, request: api_pb2.QueueGetByIdRequest, _: object
    ) -> api_pb2.QueueGetByIdResponse:
        """Find a Queue by its id."""
        self._queue(request.queue_id)
        names = {queue_id: name for name, queue_id in self._names.items()}
        metadata = api_pb2.QueueMetadata(name=names.get(request.queue_id, ""))
        return api_pb2.QueueGetByIdResponse(queue_id=request.queue_id, metadata=metadata)

    @answers("QueueHeartbeat")
    async def heartbeat(self, request: api_pb2.QueueHeartbeatRequest, _: object) -> Empty:
        """Note nothing: ephemeral Queues live as long as the plane."""
        return Empty()

    @answers("QueueDelete")
    async def delete(self, request: api_pb2.QueueDeleteRequest, _: object) -> Empty:
        """Delete a Queue."""
        self._queue(request.queue_id)
        del self._queues[request.queue_id]
        self._names = {n: key for n, key in self._names.items() if key != request.queue_id}
        return Empty()

    @answers("QueuePut")
    async def put(self, request: api_pb2.QueuePutRequest, _: object) -> Empty:
        """Append items to a partition: all of them, or none if it is full."""
        queue = self._queue(request.queue_id)
        if len(request.partition_key) > KEY_BYTES:
            raise GRPCError(Status.INVALID_ARGUMENT, f"partition keys have <= {KEY_BYTES} bytes")
        if any(len(value) > ITEM_BYTES for value in request.values):
            raise GRPCError(Status.INVALID_ARGUMENT, f"items have at most {ITEM_BYTES} bytes")
        partition = queue.partitions[request.partition_key]
        if len(partition) + len(request.values) > PARTITION_ITEMS:
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED, f"a partition holds at most {PARTITION_ITEMS} items"
            )
        partition.extend(
            value
            for value in request.values
            if not self._faults.strikes(self._faults.lose_queue_puts)
        )
        queue.bell.ring()
        return Empty()

    @answers("QueueGet")
    async def get(self, request: api_pb2.QueueGetRequest, _: object) -> api_pb2.QueueGetResponse:
        """Take items from a partition; wait for the first, if asked to."""
        queue = self._queue(request.queue_id)
        until = time.monotonic() + request.timeout
        while not (partition := queue.partitions[request.partition_key]):
            if (left := until - time.monotonic()) <= 0:
                return api_pb2.QueueGetResponse()
            await queue.bell.wait(left)
        count = min(max(1, request.n_values), len(partition))
        values = [partition.popleft() for _ in range(count)]
        for value in values:
            if self._faults.strikes(self._faults.repeat_queue_gets):
                later = asyncio.get_running_loop().call_later
                later(REPEAT_SECONDS, self._repeat, queue, request.partition_key, value)
        return api_pb2.QueueGetResponse(values=values)

    def _repeat(self, queue: Queue, key: bytes, value: bytes) -> None:
        queue.partitions[key].append(value)
        queue.bell.ring()

    @answers("QueueLen")
    async def length(self, request: api_pb2.QueueLenRequest, _: object) -> api_pb2.QueueLenResponse:
        """Count the items of a partition, or of all."""
        partitions = self._queue(request.queue_id).partitions
        chosen = partitions.values() if request.total else [partitions[request.partition_key]]
        return api_pb2.QueueLenResponse(len=sum(len(partition) for partition in chosen))

    @answers("QueueClear")
    async def clear(self, request: api_pb2.QueueClearRequest, _: object) -> Empty:
        """Empty a partition, or all."""
        partitions = self._queue(request.queue_id).partitions
        for key in list(partitions) if request.all_partitions else [request.partition_key]:
            partitions[key].clear()
        return Empty()

    @answers("QueueNextItems")
    async def next_items(
        self, request: api_pb2.QueueNextItemsRequest, _: object
    ) -> api_pb2.QueueNextItemsResponse:
        """Show the items of a partition from one on, and leave them there."""
        queue = self._queue(request.queue_id)
        first = int(request.last_entry_id or -1) + 1
        until = time.monotonic() + request.item_poll_timeout
        while len(partition := queue.partitions[request.partition_key]) <= first:
            if (left := until - time.monotonic()) <= 0:
                return api_pb2.QueueNextItemsResponse()
            await queue.bell.wait(left)
        return api_pb2.QueueNextItemsResponse(
            items=[
                api_pb2.QueueItem(value=value, entry_id=str(index))
                for index, value in enumerate(partition)
                if index >= first
            ]
        )


class Dicts:
    """Answers what concerns Dicts."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._dicts: dict[str, dict[bytes, bytes]] = {}

    def _dict(self, dict_id: str) -> dict[bytes, bytes]:
        if dict_id not in self._dicts:
            raise missing(f"Dict {dict_id!r} not found")
        return self._dicts[dict_id]

    @answers("DictGetOrCreate")
    async def get_or_create(
        self, request: api_pb2.DictGetOrCreateRequest, _: object
    ) -> api_pb2.DictGetOrCreateResponse:
        """Find a Dict by name, or make one."""
        dict_id, new = found_or_made(
            self._names, "Dict", "di", request.deployment_name, request.object_creation_type
        )
        if new:
            self._dicts[dict_id] = {entry.key: entry.value for entry in request.data}
        metadata = api_pb2.DictMetadata(name=request.deployment_name)
        return api_pb2.DictGetOrCreateResponse(dict_id=dict_id, metadata=metadata)

    @answers("DictHeartbeat")
    async def heartbeat(self, request: api_pb2.DictHeartbeatRequest, _: object) -> Empty:
        """Note nothing: ephemeral Dicts live as long as the plane."""
        return Empty()

    @answers("DictDelete")
    async def delete(self, request: api_pb2.DictDeleteRequest, _: object) -> Empty:
        """Delete a Dict."""
        self._dict(request.dict_id)
        del self._dicts[request.dict_id]
        self._names = {n: key for n, key in self._names.items() if key != request.dict_id}
        return Empty()

    @answers("DictUpdate")
    async def update(
        self, request: api_pb2.DictUpdateRequest, _: object
    ) -> api_pb2.DictUpdateResponse:
        """Set entries; with ``if_not_exists``, only those that are new."""
        entries = self._dict(request.dict_id)
        created = False
        for entry in request.updates:
            if not (request.if_not_exists and entry.key in entries):
                entries[entry.key] = entry.value
                created = True
        return api_pb2.DictUpdateResponse(created=created)

    @answers("DictGet")
    async def get(self, request: api_pb2.DictGetRequest, _: object) -> api_pb2.DictGetResponse:
        """Return an entry."""
        value = self._dict(request.dict_id).get(request.key)
        return api_pb2.DictGetResponse(found=value is not None, value=value)

    @answers("DictPop")
    async def pop(self, request: api_pb2.DictPopRequest, _: object) -> api_pb2.DictPopResponse:
        """Return an entry and remove it."""
        value = self._dict(request.dict_id).pop(request.key, None)
        return api_pb2.DictPopResponse(found=value is not None, value=value)

    @answers("DictContains")
    async def contains(
        self, request: api_pb2.DictContainsRequest, _: object
    ) -> api_pb2.DictContainsResponse:
        """Say whether there is an entry."""
        return api_pb2.DictContainsResponse(found=request.key in self._dict(request.dict_id))

    @answers("DictLen")
    async def length(self, request: api_pb2.DictLenRequest, _: object) -> api_pb2.DictLenResponse:
        """Count the entries."""
        return api_pb2.DictLenResponse(len=len(self._dict(request.dict_id)))

    @answers("DictClear")
    async def clear(self, request: api_pb2.DictClearRequest, _: object) -> Empty:
        """Remove all entries."""
        self._dict(request.dict_id).clear()
        return Empty()

    @answers("DictContents")
    async def contents(
        self, request: api_pb2.DictContentsRequest, _: object
    ) -> AsyncIterator[api_pb2.DictEntry]:
        """Stream all entries, their keys, or their values."""
        for key, value in list(self._dict(request.dict_id).items()):
            yield api_pb2.DictEntry(
                key=key if request.keys else b"", value=value if request.values else b""
            )
