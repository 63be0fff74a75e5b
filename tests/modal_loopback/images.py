"""Images, the files that apps ship, Secrets, and the price list."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2

from tests.modal_loopback.apps import BUILDER, ENVIRONMENT
from tests.modal_loopback.blobs import Blobs
from tests.modal_loopback.rooms import HOME, ShippedFile
from tests.modal_loopback.wire import answers, missing, new_id


@dataclass(frozen=True)
class Image:
    """An Image: the layers under it, and what its own layer adds.

    Attributes:
        bases: Ids of the Images it builds upon.
        commands: The lines of its Dockerfile.
        context_mount_id: The files that its COPY lines take from; empty without any.
    """

    bases: list[str]
    commands: list[str]
    context_mount_id: str


@dataclass(frozen=True)
class Secret:
    """A Secret; ``name`` is empty if it was made from a dict."""

    name: str
    values: dict[str, str] = field(repr=False)


class Images:
    """Answers what concerns Images, mounts, Secrets and prices.

    Args:
        directory: Where the content of shipped files is kept.
        blobs: Where the client uploads what is large.
        named: Secrets that exist, by name.
    """

    def __init__(
        self, directory: Path, blobs: Blobs, named: Mapping[str, Mapping[str, str]]
    ) -> None:
        self.images: dict[str, Image] = {}
        self.mounts: dict[str, list[api_pb2.MountFile]] = {}
        self.secrets = {new_id("st"): Secret(name, dict(values)) for name, values in named.items()}
        self.rates: dict[str, str] | None = None
        self._directory = directory
        self._blobs = blobs

    def layers(self, image_id: str) -> Iterator[Image]:
        """Yield an Image and those under it, the lowest first."""
        if image_id in self.images:
            for base in self.images[image_id].bases:
                yield from self.layers(base)
            yield self.images[image_id]

    def commands(self, image_id: str) -> list[str]:
        """Return all lines of an Image's Dockerfiles, the lowest layer first."""
        return [line for layer in self.layers(image_id) for line in layer.commands]

    def environment(self, definition: api_pb2.Function) -> dict[str, str]:
        """Return the variables that a function's Image and Secrets set."""
        found: dict[str, str] = {}
        for line in self.commands(definition.image_id):
            if line.startswith("ENV "):
                found.update(_assignments(line.removeprefix("ENV ")))
        for secret_id in definition.secret_ids:
            found.update(self.secrets[secret_id].values)
        return found

    def work_directory(self, definition: api_pb2.Function) -> str:
        """Return where a function's containers begin."""
        lines = self.commands(definition.image_id)
        given = [shlex.split(line)[1] for line in lines if line.startswith("WORKDIR ")]
        return str(PurePosixPath(HOME, *given))

    def files(self, definition: api_pb2.Function) -> list[ShippedFile]:
        """Return the files that a function's containers find."""
        found: list[ShippedFile] = []
        for layer in self.layers(definition.image_id):
            for line in layer.commands:
                copied = re.fullmatch(r"COPY \. (\S+)", line)
                if copied and layer.context_mount_id:
                    found += self._mounted(layer.context_mount_id, copied[1])
        for mount_id in definition.mount_ids:
            found += self._mounted(mount_id, "/")
        return found

    def _mounted(self, mount_id: str, place: str) -> list[ShippedFile]:
        return [
            ShippedFile(
                str(PurePosixPath("/", place, file.filename.lstrip("/"))),
                self._directory / file.sha256_hex,
                file.mode,
            )
            for file in self.mounts.get(mount_id, [])
        ]

    @answers("ImageGetOrCreate")
    async def image(
        self, request: api_pb2.ImageGetOrCreateRequest, _: object
    ) -> api_pb2.ImageGetOrCreateResponse:
        """Keep an Image's definition, and call it built."""
        image = Image(
            [base.image_id for base in request.image.base_images],
            list(request.image.dockerfile_commands),
            request.image.context_mount_id,
        )
        known = (image_id for image_id, other in self.images.items() if other == image)
        image_id = next(known, None) or new_id("im")
        self.images[image_id] = image
        return api_pb2.ImageGetOrCreateResponse(
            image_id=image_id,
            result=api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS),
            metadata=api_pb2.ImageMetadata(image_builder_version=BUILDER),
        )

    @answers("MountBatchedCheckExistence")
    async def check_files(
        self, request: api_pb2.MountBatchedCheckExistenceRequest, _: object
    ) -> api_pb2.MountBatchedCheckExistenceResponse:
        """Say which files have yet to be sent."""
        return api_pb2.MountBatchedCheckExistenceResponse(
            missing_sha256_hex_hashes=[
                digest
                for digest in request.sha256_hex_hashes
                if not (self._directory / digest).exists()
            ]
        )

    @answers("MountPutFile")
    async def put_file(
        self, request: api_pb2.MountPutFileRequest, _: object
    ) -> api_pb2.MountPutFileResponse:
        """Keep the content of a file; without any, say whether it is known."""
        place = self._directory / request.sha256_hex
        if request.WhichOneof("data_oneof") is None:
            return api_pb2.MountPutFileResponse(exists=place.exists())
        if not place.exists():
            blob_id = request.data_blob_id
            content = self._blobs.read(blob_id) if blob_id else request.data
            if hashlib.sha256(content).hexdigest() != request.sha256_hex:
                raise GRPCError(Status.INVALID_ARGUMENT, "the content is not that of the hash")
            place.write_bytes(content)
        return api_pb2.MountPutFileResponse(exists=True)

    @answers("MountGetOrCreate")
    async def mount(
        self, request: api_pb2.MountGetOrCreateRequest, _: object
    ) -> api_pb2.MountGetOrCreateResponse:
        """Keep a set of files. Modal's own, found by name, are empty: the client is installed."""
        mount_id = new_id("mo")
        self.mounts[mount_id] = list(request.files)
        return api_pb2.MountGetOrCreateResponse(mount_id=mount_id)

    @answers("SecretGetOrCreate")
    async def secret(
        self, request: api_pb2.SecretGetOrCreateRequest, _: object
    ) -> api_pb2.SecretGetOrCreateResponse:
        """Find a Secret by name, or make one from a dict."""
        name = request.deployment_name
        if request.object_creation_type == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
            found = (key for key, secret in self.secrets.items() if name and secret.name == name)
            secret_id = next(found, None)
            if secret_id is None:
                raise missing(f"Secret '{name}' not found in environment '{ENVIRONMENT}'")
            absent = set(request.required_keys) - set(self.secrets[secret_id].values)
            if absent:
                raise missing(f"Secret '{name}' is missing key(s): {', '.join(sorted(absent))}")
        else:
            secret_id = new_id("st")
            self.secrets[secret_id] = Secret(name, dict(request.env_dict))
        secret = self.secrets[secret_id]
        return api_pb2.SecretGetOrCreateResponse(
            secret_id=secret_id,
            metadata=api_pb2.SecretMetadata(name=secret.name, keys=list(secret.values)),
        )

    @answers("BlobCreate")
    async def create_blob(
        self, request: api_pb2.BlobCreateRequest, _: object
    ) -> api_pb2.BlobCreateResponse:
        """Say where to upload a large payload."""
        blob_id = new_id("bl")
        url = self._blobs.url(blob_id)
        return api_pb2.BlobCreateResponse(
            blob_ids=[blob_id], upload_urls=api_pb2.UploadUrlList(items=[url])
        )

    @answers("BlobGet")
    async def get_blob(self, request: api_pb2.BlobGetRequest, _: object) -> api_pb2.BlobGetResponse:
        """Say where a large payload lies."""
        return api_pb2.BlobGetResponse(download_url=self._blobs.url(request.blob_id))

    @answers("WorkspaceNameLookup")
    async def workspace(self, request: Empty, _: object) -> api_pb2.WorkspaceNameLookupResponse:
        """Name the workspace."""
        return api_pb2.WorkspaceNameLookupResponse(workspace_name="loopback", username="loopback")

    @answers("WorkspaceBillingRates")
    async def billing_rates(
        self, request: api_pb2.WorkspaceBillingRatesRequest, _: object
    ) -> api_pb2.WorkspaceBillingRatesResponse:
        """Return the prices that the test has set."""
        if self.rates is None:
            raise GRPCError(Status.UNIMPLEMENTED, "no billing rates were set")
        return api_pb2.WorkspaceBillingRatesResponse(rates=self.rates)


def _assignments(text: str) -> dict[str, str]:
    """Read the rest of an ENV line: ``A=1 B='two words'``, or the old ``A 1``."""
    words = shlex.split(text)
    if "=" not in words[0]:
        return {words[0]: " ".join(words[1:])}
    return dict(word.split("=", 1) for word in words)
