"""Apps, and the environment that they are in."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.modal_loopback.wire import Bell, answers, missing, new_id

ENVIRONMENT = "main"

BUILDER = "2025.06"
"""The version of the image builder that the environment has."""

LOST_SECONDS = 12.0
"""An ephemeral app stops after so long without a sign of its client, which gives one a second."""

LOG_HOLD_SECONDS = 10.0
"""How long a client that follows an app's log is kept waiting for its end."""


@dataclass(eq=False)
class App:
    """An app.

    Attributes:
        id: ``ap-…``.
        name: Its name; an ephemeral app has a description.
        state: One of Modal's AppState.
        functions: Ids of its functions, by tag.
        classes: Ids of its classes, by tag.
        seen: When its client last gave a sign of life.
        bell: Rings when it stops.
    """

    id: str
    name: str
    state: int
    functions: dict[str, str] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    seen: float = field(default_factory=time.monotonic)
    bell: Bell = field(default_factory=Bell)

    @property
    def deployed(self) -> bool:
        """Whether it lives on without a client, found by its name."""
        return self.state == api_pb2.APP_STATE_DEPLOYED

    @property
    def stopped(self) -> bool:
        """Whether its functions run no more."""
        return self.state == api_pb2.APP_STATE_STOPPED

    @property
    def page(self) -> str:
        """Where people would look at it."""
        return f"http://loopback.invalid/apps/{self.id}"


class Runners(Protocol):
    """What runs the functions of apps."""

    def stop_app(self, app: App) -> None:
        """End an app's containers and calls."""


class Apps:
    """Answers what concerns apps."""

    runners: Runners

    def __init__(self) -> None:
        self._apps: dict[str, App] = {}

    def app(self, app_id: str) -> App:
        """Return an app; NOT_FOUND without one."""
        if app_id not in self._apps:
            raise missing(f"App {app_id!r} not found")
        return self._apps[app_id]

    def find(self, name: str) -> App | None:
        """Return the deployed app of a name."""
        return next((a for a in self._apps.values() if a.deployed and a.name == name), None)

    def deployed(self, name: str) -> App:
        """Return the deployed app of a name; NOT_FOUND without one."""
        app = self.find(name)
        if app is None:
            raise missing(f"App {name!r} not found in environment '{ENVIRONMENT}'")
        return app

    def stop(self, app: App) -> None:
        """Stop an app with all that runs in it."""
        app.state = api_pb2.APP_STATE_STOPPED
        app.bell.ring()
        self.runners.stop_app(app)

    def stop_lost(self) -> None:
        """Stop the ephemeral apps whose clients have vanished."""
        now = time.monotonic()
        for app in self._apps.values():
            if app.state == api_pb2.APP_STATE_EPHEMERAL and now - app.seen > LOST_SECONDS:
                self.stop(app)

    def _new(self, name: str, state: int) -> App:
        app = App(new_id("ap"), name, state)
        self._apps[app.id] = app
        return app

    @answers("ClientHello")
    async def hello(self, request: Empty, _: object) -> api_pb2.ClientHelloResponse:
        """Welcome a client; its token was looked at before."""
        return api_pb2.ClientHelloResponse(image_builder_version=BUILDER)

    @answers("EnvironmentGetOrCreate")
    async def environment(
        self, request: api_pb2.EnvironmentGetOrCreateRequest, _: object
    ) -> api_pb2.EnvironmentGetOrCreateResponse:
        """Return the one environment there is, under the name asked for."""
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id="en-loopback",
            metadata=api_pb2.EnvironmentMetadata(
                name=request.deployment_name or ENVIRONMENT,
                settings=api_pb2.EnvironmentSettings(image_builder_version=BUILDER),
            ),
        )

    @answers("AppCreate")
    async def create(
        self, request: api_pb2.AppCreateRequest, _: object
    ) -> api_pb2.AppCreateResponse:
        """Make an app: ephemeral, detached, or one about to be deployed."""
        app = self._new(request.description, request.app_state)
        return api_pb2.AppCreateResponse(
            app_id=app.id, app_page_url=app.page, app_logs_url=app.page
        )

    @answers("AppGetOrCreate")
    async def get_or_create(
        self, request: api_pb2.AppGetOrCreateRequest, _: object
    ) -> api_pb2.AppGetOrCreateResponse:
        """Look an app up by name."""
        if request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
            app = self.find(request.app_name) or self._new(
                request.app_name, api_pb2.APP_STATE_DEPLOYED
            )
        else:
            app = self.deployed(request.app_name)
        metadata = api_pb2.AppHandleMetadata(
            description=app.name, app_id=app.id, environment_name=ENVIRONMENT
        )
        return api_pb2.AppGetOrCreateResponse(app_id=app.id, handle_metadata=metadata)

    @answers("AppGetByDeploymentName")
    async def by_name(
        self, request: api_pb2.AppGetByDeploymentNameRequest, _: object
    ) -> api_pb2.AppGetByDeploymentNameResponse:
        """Return the id of a deployed app, so that its functions keep theirs."""
        app = self.find(request.name)
        return api_pb2.AppGetByDeploymentNameResponse(app_id=app.id if app else "")

    @answers("AppHeartbeat")
    async def heartbeat(self, request: api_pb2.AppHeartbeatRequest, _: object) -> Empty:
        """Note that an app's client lives."""
        self.app(request.app_id).seen = time.monotonic()
        return Empty()

    @answers("AppPublish")
    async def publish(
        self, request: api_pb2.AppPublishRequest, _: object
    ) -> api_pb2.AppPublishResponse:
        """Make an app's new functions the ones it has."""
        app = self.app(request.app_id)
        app.name = request.name or app.name
        app.state = request.app_state or app.state
        app.functions = dict(request.function_ids)
        app.classes = dict(request.class_ids)
        app.seen = time.monotonic()
        return api_pb2.AppPublishResponse(url=app.page, deployed_at=time.time())

    @answers("AppClientDisconnect")
    async def disconnect(self, request: api_pb2.AppClientDisconnectRequest, _: object) -> Empty:
        """Stop an ephemeral app, or one that failed before it was deployed."""
        app = self.app(request.app_id)
        if app.state == api_pb2.APP_STATE_DETACHED:
            app.state = api_pb2.APP_STATE_DETACHED_DISCONNECTED
        elif app.state in (api_pb2.APP_STATE_EPHEMERAL, api_pb2.APP_STATE_INITIALIZING):
            self.stop(app)
        return Empty()

    @answers("AppStop")
    async def stop_by_id(self, request: api_pb2.AppStopRequest, _: object) -> Empty:
        """Stop an app for good."""
        self.stop(self.app(request.app_id))
        return Empty()

    @answers("AppGetLogs")
    async def logs(
        self, request: api_pb2.AppGetLogsRequest, _: object
    ) -> AsyncIterator[api_pb2.TaskLogsBatch]:
        """Stream nothing but the end: logs stay in the containers' files."""
        app = self.app(request.app_id)
        if not app.stopped:
            await app.bell.wait(min(request.timeout, LOG_HOLD_SECONDS))
        yield api_pb2.TaskLogsBatch(app_done=app.stopped)
