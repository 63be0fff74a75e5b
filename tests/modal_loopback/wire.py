"""Answers gRPC: finds the method that answers an RPC, and lets the faults act on the way."""

from __future__ import annotations

import asyncio
import functools
import inspect
import secrets
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from grpclib import GRPCError, Status
from grpclib.const import Cardinality, Handler
from grpclib.exceptions import StreamTerminatedError
from grpclib.server import Stream
from modal_proto.api_grpc import ModalClientBase

from tests.modal_loopback.faults import Faults

if TYPE_CHECKING:
    from tests.modal_loopback.containers import Container

Method = TypeVar("Method", bound=Callable[..., Any])


def answers(rpc: str) -> Callable[[Method], Method]:
    """Mark a method ``(request, container)`` as the one that answers ``rpc``.

    ``container`` is the one that asks, or ``None`` for a client outside. It returns the reply, or
    yields them if the RPC answers with a stream.
    """

    def mark(method: Method) -> Method:
        method.answers = rpc  # type: ignore[attr-defined]
        return method

    return mark


def new_id(prefix: str) -> str:
    """Return an id that no earlier plane has used either."""
    return f"{prefix}-{secrets.token_hex(11)}"


def missing(what: str) -> GRPCError:
    """Return the error for something that doesn't exist."""
    return GRPCError(Status.NOT_FOUND, what)


class Bell:
    """Wakes everyone who waits, each time that it rings."""

    def __init__(self) -> None:
        self._next: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake all who wait now."""
        if self._next is not None and not self._next.done():
            self._next.set_result(None)
        self._next = None

    async def wait(self, seconds: float) -> bool:
        """Wait until it rings, at most ``seconds``; return whether it rang."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait([self._next], timeout=max(0.0, seconds))
        return bool(done)


@functools.cache
def rpc_table() -> Mapping[str, Handler]:
    """Return what modal's protocol says of each RPC, by its path."""

    async def unused(self: object, stream: object) -> None: ...

    names = dict.fromkeys(ModalClientBase.__abstractmethods__, unused)
    table: Mapping[str, Handler] = type("Table", (ModalClientBase,), names)().__mapping__()
    return table


class Wire:
    """What all connections share: who answers what, the faults, and the counts.

    Args:
        token: The id and the secret that clients have to show.
        faults: What goes wrong on purpose.
    """

    def __init__(self, token: tuple[str, str], faults: Faults) -> None:
        self.token = token
        self.faults = faults
        self.counts: Counter[str] = Counter()
        self.unimplemented: Counter[str] = Counter()
        self.errors: list[str] = []
        self._methods: dict[str, Callable[..., Any]] = {}

    def add(self, parts: Iterable[object]) -> None:
        """Let the marked methods of ``parts`` answer."""
        for part in parts:
            for name, function in inspect.getmembers(type(part), inspect.isfunction):
                if hasattr(function, "answers"):
                    self._methods[function.answers] = getattr(part, name)

    async def serve(self, name: str, container: Container | None, stream: Stream[Any, Any]) -> None:
        """Answer one request."""
        request = await stream.recv_message()
        if self.faults.rpc_delay:
            await asyncio.sleep(self.faults.rpc_delay)
        if container is None:
            self._authenticate(stream.metadata or {})
        if self.faults.strikes(self.faults.rpc_errors.get(name, 0.0)):
            raise GRPCError(Status.UNAVAILABLE, "injected by the loopback")
        method = self._methods.get(name)
        if method is None:
            self.unimplemented[name] += 1
            raise GRPCError(Status.UNIMPLEMENTED, f"{name} is not part of the loopback")
        self.counts[name] += 1
        try:
            if inspect.isasyncgenfunction(method):
                async for reply in method(request, container):
                    await stream.send_message(reply)
            else:
                await stream.send_message(await method(request, container))
        except (GRPCError, StreamTerminatedError, ConnectionError):
            raise  # an answer, or a client that has left
        except Exception:
            self.errors.append(f"{name}: {traceback.format_exc()}")
            raise

    def _authenticate(self, metadata: Mapping[str, Any]) -> None:
        shown = (metadata.get("x-modal-token-id"), metadata.get("x-modal-token-secret"))
        if shown != self.token or self.faults.refuse_token:
            raise GRPCError(Status.UNAUTHENTICATED, "Token validation failed")


class Endpoint:
    """One listening socket's view of the wire, as grpclib wants it.

    Args:
        wire: What answers.
        container: Whose socket it is; ``None`` for that of the clients.
    """

    def __init__(self, wire: Wire, container: Container | None = None) -> None:
        self._wire = wire
        self._container = container

    def __mapping__(self) -> dict[str, Handler]:
        """Return the handlers by path."""
        return {
            path: Handler(
                functools.partial(self._wire.serve, path.rpartition("/")[2], self._container),
                Cardinality(handler.cardinality),
                handler.request_type,
                handler.reply_type,
            )
            for path, handler in rpc_table().items()
        }
