"""The functions of apps and their variants: what they are, not what they do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from modal_proto import api_pb2

from tests.modal_loopback.apps import App, Apps
from tests.modal_loopback.wire import answers, missing, new_id


@dataclass(eq=False)
class Function:
    """A function, or a variant of one.

    Attributes:
        id: ``fu-…``.
        app: Whose it is.
        tag: Its name in the app.
        handle: What clients are told of it.
        own_definition: What it was created with; a variant has none of its own.
        own_gpus: The GPUs it may run on, the most wanted first.
        version: How often it was created.
        parent: Of a variant, the function that it varies.
        variation: Of a variant, how it differs.
    """

    id: str
    app: App
    tag: str
    handle: api_pb2.FunctionHandleMetadata
    own_definition: api_pb2.Function | None = None
    own_gpus: list[str] = field(default_factory=list)
    version: int = 0
    parent: Function | None = None
    variation: api_pb2.FunctionBindParamsRequest | None = None

    @property
    def base(self) -> Function:
        """The function that a variant varies; any other is its own."""
        return self.parent or self

    @property
    def definition(self) -> api_pb2.Function:
        """What it is now."""
        if self.base.own_definition is None:
            raise missing(f"Function {self.tag!r} was never created")
        if self.variation is None:
            return self.base.own_definition
        return merged(self.base.own_definition, self.variation.function_options)

    @property
    def gpus(self) -> list[str]:
        """The GPUs that it asks for, the most wanted first."""
        if self.variation is not None:
            chosen = gpu_name(self.variation.function_options.resources)
            if chosen is not None:
                return [chosen]
        return self.base.own_gpus


def gpu_name(resources: api_pb2.Resources) -> str | None:
    """Return ``L4`` or ``H100:2``; ``None`` without a GPU."""
    gpu = resources.gpu_config
    if not gpu.count:
        return None
    return str(gpu.gpu_type) if gpu.count == 1 else f"{gpu.gpu_type}:{gpu.count}"


def merged(definition: api_pb2.Function, options: api_pb2.FunctionOptions) -> api_pb2.Function:
    """Return ``definition`` as a variant with ``options`` has it."""
    result = api_pb2.Function()
    result.CopyFrom(definition)
    if options.replace_secret_ids:
        result.secret_ids[:] = options.secret_ids
    if options.replace_volume_mounts:
        del result.volume_mounts[:]
        result.volume_mounts.extend(options.volume_mounts)
    if options.HasField("resources"):
        result.resources.MergeFrom(options.resources)
    if options.HasField("concurrency_limit"):
        result.autoscaler_settings.max_containers = options.concurrency_limit
    if options.HasField("task_idle_timeout_secs"):
        result.autoscaler_settings.scaledown_window = options.task_idle_timeout_secs
    for name in ("scheduler_placement", "retry_policy"):
        if options.HasField(name):
            getattr(result, name).CopyFrom(getattr(options, name))
    for name in ("timeout_secs", "max_concurrent_inputs", "target_concurrent_inputs"):
        if options.HasField(name):
            setattr(result, name, getattr(options, name))
    return result


def handle(request: api_pb2.FunctionPrecreateRequest) -> api_pb2.FunctionHandleMetadata:
    """Return what clients are told of a function."""
    metadata = api_pb2.FunctionHandleMetadata(
        function_name=request.function_name,
        function_type=request.function_type,
        function_schema=request.function_schema,
        supported_input_formats=request.supported_input_formats,
        supported_output_formats=request.supported_output_formats,
        app_id=request.app_id,
    )
    for name, method in request.method_definitions.items():
        metadata.method_handle_metadata[name].CopyFrom(
            api_pb2.FunctionHandleMetadata(
                function_name=method.function_name,
                function_type=method.function_type,
                is_method=True,
                use_method_name=name,
                function_schema=method.function_schema,
                supported_input_formats=method.supported_input_formats,
                supported_output_formats=method.supported_output_formats,
            )
        )
    return metadata


def summary(function: Function) -> api_pb2.FunctionData:
    """Return a function's definition as clients look at it."""
    definition = function.definition
    return api_pb2.FunctionData(
        module_name=definition.module_name,
        function_name=definition.function_name,
        function_type=definition.function_type,
        timeout_secs=definition.timeout_secs,
        autoscaler_settings=definition.autoscaler_settings,
        ranked_functions=[api_pb2.FunctionData.RankedFunction(rank=0, function=definition)],
    )


class Runners(Protocol):
    """What runs functions."""

    def renew(self, function: Function) -> None:
        """End the containers of older versions of a function when they are idle."""


class Functions:
    """Answers what concerns functions.

    Args:
        apps: What they are in.
    """

    runners: Runners

    def __init__(self, apps: Apps) -> None:
        self._apps = apps
        self._functions: dict[str, Function] = {}

    def function(self, function_id: str) -> Function:
        """Return a function or a variant; NOT_FOUND without one."""
        if function_id not in self._functions:
            raise missing(f"Function {function_id!r} not found")
        return self._functions[function_id]

    def layout(self, app: App) -> api_pb2.AppLayout:
        """Return an app's functions and classes as clients and containers want them."""
        functions = [
            api_pb2.Object(
                object_id=function_id, function_handle_metadata=self._functions[function_id].handle
            )
            for function_id in app.functions.values()
        ]
        classes = [
            api_pb2.Object(object_id=class_id, class_handle_metadata=api_pb2.ClassHandleMetadata())
            for class_id in app.classes.values()
        ]
        return api_pb2.AppLayout(
            objects=functions + classes, function_ids=app.functions, class_ids=app.classes
        )

    @answers("AppGetLayout")
    async def get_layout(
        self, request: api_pb2.AppGetLayoutRequest, _: object
    ) -> api_pb2.AppGetLayoutResponse:
        """Return what an app consists of."""
        return api_pb2.AppGetLayoutResponse(app_layout=self.layout(self._apps.app(request.app_id)))

    @answers("FunctionPrecreate")
    async def precreate(
        self, request: api_pb2.FunctionPrecreateRequest, _: object
    ) -> api_pb2.FunctionPrecreateResponse:
        """Give a function its id, or the one that it had."""
        metadata = handle(request)
        function = self._functions.get(request.existing_function_id)
        if function is None:
            app = self._apps.app(request.app_id)
            function = Function(new_id("fu"), app, request.function_name, metadata)
            self._functions[function.id] = function
        function.handle = metadata
        return api_pb2.FunctionPrecreateResponse(function_id=function.id, handle_metadata=metadata)

    @answers("FunctionCreate")
    async def create(
        self, request: api_pb2.FunctionCreateRequest, _: object
    ) -> api_pb2.FunctionCreateResponse:
        """Define a function, anew if it was there."""
        function = self.function(request.existing_function_id)
        ranked = [each.function for each in request.function_data.ranked_functions]
        choices = ranked or [request.function]
        function.own_definition = api_pb2.Function()
        function.own_definition.CopyFrom(choices[0])
        function.own_gpus = [name for each in choices if (name := gpu_name(each.resources))]
        function.version += 1
        function.handle.definition_id = new_id("de")
        function.handle.class_parameter_info.CopyFrom(choices[0].class_parameter_info)
        self.runners.renew(function)
        return api_pb2.FunctionCreateResponse(
            function_id=function.id,
            function=function.definition,
            function_data=summary(function),
            handle_metadata=function.handle,
        )

    @answers("FunctionGet")
    async def get(
        self, request: api_pb2.FunctionGetRequest, _: object
    ) -> api_pb2.FunctionGetResponse:
        """Look a function up by the name of its app and its own."""
        app = self._apps.deployed(request.app_name)
        if request.object_tag not in app.functions:
            raise missing(f"no function {request.object_tag!r} in app {request.app_name!r}")
        return self._found(app.functions[request.object_tag])

    @answers("FunctionGetById")
    async def get_by_id(
        self, request: api_pb2.FunctionGetByIdRequest, _: object
    ) -> api_pb2.FunctionGetResponse:
        """Look a function up by its id."""
        return self._found(request.function_id)

    def _found(self, function_id: str) -> api_pb2.FunctionGetResponse:
        function = self.function(function_id)
        return api_pb2.FunctionGetResponse(
            function_id=function.id, handle_metadata=function.handle, function=summary(function)
        )

    @answers("FunctionBindParams")
    async def bind(
        self, request: api_pb2.FunctionBindParamsRequest, _: object
    ) -> api_pb2.FunctionBindParamsResponse:
        """Return a variant; the same request always gets the same one."""
        base = self.function(request.function_id)
        known = (each for each in self._functions.values() if each.variation == request)
        variant = next(known, None)
        if variant is None:
            variant = Function(
                new_id("fu"), base.app, base.tag, base.handle, parent=base, variation=request
            )
            self._functions[variant.id] = variant
        return api_pb2.FunctionBindParamsResponse(
            bound_function_id=variant.id, handle_metadata=variant.handle
        )

    @answers("ClassCreate")
    async def create_class(
        self, request: api_pb2.ClassCreateRequest, _: object
    ) -> api_pb2.ClassCreateResponse:
        """Give a class its id, or the one that it had."""
        return api_pb2.ClassCreateResponse(class_id=request.existing_class_id or new_id("cs"))

    @answers("ClassGet")
    async def get_class(
        self, request: api_pb2.ClassGetRequest, _: object
    ) -> api_pb2.ClassGetResponse:
        """Look a class up by the name of its app and its own."""
        app = self._apps.deployed(request.app_name)
        if request.object_tag not in app.classes:
            raise missing(f"no class {request.object_tag!r} in app {request.app_name!r}")
        return api_pb2.ClassGetResponse(class_id=app.classes[request.object_tag])
