"""Everything that decides what is deployed on Modal, as one value with a fingerprint."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass

import modal

from hpo.errors import InputError
from hpo.on_modal.messages import STUDIES_VOLUME
from hpo.on_modal.pricing import GRACE_SECONDS
from hpo.on_modal.shipping import (
    Source,
    content_hash,
    our_sources,
    packages_of,
    sources_of,
    text_hash,
)
from hpo.protocol import ObjectiveSpec
from hpo.settings import Settings
from hpo.text import duration
from storage.address import ModalAddress, parse_url

TRIAL_SECONDS = 1800.0
"""What an attempt may run on Modal unless ``--trial-timeout`` says otherwise: without a limit there
is no worst case."""

MOST_SECONDS = 24 * 3600.0 - GRACE_SECONDS
"""The longest an attempt may run: Modal ends every call after a day."""

NAME_CHARACTERS = 64
"""How long a name on Modal may be."""

CONTAINERS = 10
"""Trials at once on Modal unless ``--workers`` says otherwise: as many GPUs as a new account may
use, and as many trials as the TPE sampler draws at random before it learns."""


@dataclass(frozen=True)
class Deployment:
    """Everything that decides what is deployed.

    Attributes:
        name: The app's name.
        gpu: GPUs, the first that is free in this order.
        region: Regions; empty for any.
        timeout: Seconds that an attempt may run.
        cpu: Cores of a trial's container.
        memory: Its memory, in MiB.
        containers: Trials at once.
        packages: What is installed, pinned.
        sources: What of this machine is shipped.
        secrets: Names of Secrets.
        studies: The Volume that keeps studies whose coordinator is on Modal.
        private: A hash of what only the coordinator gets; empty if there is nothing.
    """

    name: str
    gpu: tuple[str, ...]
    region: tuple[str, ...]
    timeout: float
    cpu: float
    memory: int
    containers: int
    packages: tuple[str, ...]
    sources: tuple[Source, ...]
    secrets: tuple[str, ...]
    studies: str
    private: str

    @classmethod
    def of(cls, settings: Settings, spec: ObjectiveSpec | None, study: str) -> Deployment:
        """Return the deployment that a run with ``settings`` uses.

        Raises:
            InputError: A setting that cannot be.
        """
        timeout = settings.trial_timeout or TRIAL_SECONDS
        if timeout > MOST_SECONDS:
            raise InputError(
                f"{settings.source_of('trial_timeout')} {duration(timeout)}: a trial on Modal may "
                f"run {duration(MOST_SECONDS)} at most."
            )
        return cls(
            name=app_name(study),
            gpu=settings.gpu,
            region=settings.region,
            timeout=timeout,
            cpu=settings.cpu,
            memory=settings.memory,
            containers=settings.workers or min(CONTAINERS, settings.trials),
            packages=packages_of(settings.pip),
            sources=(*our_sources(), *sources_of(spec, settings.include)),
            secrets=settings.secret,
            studies=volume_of(settings.storage)[0],
            private=text_hash(json.dumps(private_of(settings))) if private_of(settings) else "",
        )

    def fingerprint(self) -> str:
        """Return a hash of all this and of the content of the sources."""
        facts = {**asdict(self), "sources": [source.remote for source in self.sources]}
        content = [content_hash(source.files()) for source in self.sources]
        python = sys.version_info[:2]
        return text_hash(json.dumps([facts, content, python, modal.__version__], sort_keys=True))


def private_of(settings: Settings) -> dict[str, str]:
    """Return the variables that only a coordinator on Modal gets: its database, with password."""
    there = settings.coordinator == "modal" and not settings.storage.startswith("modal://")
    return {"HPO_STORAGE": settings.storage} if there else {}


def volume_of(storage: str) -> tuple[str, str]:
    """Return Volume and file of ``modal://VOLUME/FILE``; the usual Volume for another storage."""
    address = parse_url(storage)
    if isinstance(address, ModalAddress):
        return address.volume, address.path
    return STUDIES_VOLUME, ""


def app_name(study: str) -> str:
    """Return the name of a study's app."""
    return modal_name(f"hpo-{study}")


def modal_name(text: str, room: int = 0) -> str:
    """Return ``text`` as a name that Modal takes, and that no other text has.

    Args:
        text: What is to be named.
        room: How many characters of the name are needed for what is put after it.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", text)
    most = NAME_CHARACTERS - room
    if plain == text and len(text) <= most:
        return text
    digest = text_hash(text)[:8]
    return f"{plain[: most - len(digest) - 1]}-{digest}"
