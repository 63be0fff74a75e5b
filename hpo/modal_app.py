"""The app on Modal: which functions there are, in which image, on which machines.

``python -m hpo.run --executor modal`` deploys it by itself. ``modal deploy hpo/modal_app.py`` does
the same ahead of time, for the settings in sweep.toml and the environment of the directory it is
started in; the run then finds it there.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import modal

from hpo.on_modal import cache, coordinator, worker
from hpo.on_modal.deployment import Deployment, private_of
from hpo.on_modal.messages import (
    CACHE,
    CACHE_VOLUME,
    FINGERPRINT,
    RUNS,
    RUNS_VOLUME,
    STUDIES,
)
from hpo.on_modal.pricing import (
    COORDINATOR_CPU,
    COORDINATOR_MEMORY,
    GRACE_SECONDS,
    IDLE_SECONDS,
    STARTUP_SECONDS,
)
from hpo.on_modal.shipping import is_junk
from hpo.opening import name_of, objective_of
from hpo.settings import load

CPU_SECONDS = 3600
"""What filling the cache may take."""

COORDINATOR_SECONDS = 24 * 3600
"""Modal's longest timeout; a coordinator hands over to its next call before."""


def make_app(wanted: Deployment, private: Mapping[str, str] | None = None) -> modal.App:
    """Return the app of ``wanted``; nothing is asked of Modal.

    Args:
        wanted: What is to be deployed.
        private: Variables that only the coordinator gets.
    """
    app = modal.App(wanted.name, include_source=False)
    image = _image(wanted)
    cached = modal.Volume.from_name(CACHE_VOLUME, create_if_missing=True)
    runs = modal.Volume.from_name(RUNS_VOLUME, create_if_missing=True)
    studies = modal.Volume.from_name(wanted.studies, create_if_missing=True)
    secrets = [modal.Secret.from_name(name) for name in wanted.secrets]
    common: dict[str, Any] = {
        "image": image,
        "secrets": secrets,
        "env": {FINGERPRINT: wanted.fingerprint()},
        "region": list(wanted.region) or None,
    }
    # Libraries count the cores of the host, and not those that this container may use.
    threads = str(math.ceil(wanted.cpu))
    app.function(
        **{
            **common,
            "env": {**common["env"], "OMP_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads},
        },
        gpu=list(wanted.gpu),
        # The same as request and as limit: what is used beyond a request is billed.
        cpu=(wanted.cpu, wanted.cpu),
        memory=(wanted.memory, wanted.memory),
        volumes={str(CACHE): cached, str(RUNS): runs},
        timeout=int(wanted.timeout) + GRACE_SECONDS,
        startup_timeout=STARTUP_SECONDS,
        scaledown_window=IDLE_SECONDS,
        max_containers=wanted.containers,
    )(worker.run_trial)
    # One container: what one call wrote is there for the next.
    housekeeping: dict[str, Any] = {
        **common,
        "cpu": (1.0, 1.0),
        "memory": (4096, 4096),
        "timeout": CPU_SECONDS,
        "scaledown_window": IDLE_SECONDS,
        "max_containers": 1,
    }
    app.function(**housekeeping, volumes={str(CACHE): cached})(cache.fill_cache)
    app.function(**housekeeping, volumes={str(CACHE): cached})(cache.store)
    alone = [modal.Secret.from_dict(dict(private))] if private else []
    app.function(
        **{**common, "secrets": secrets + alone},
        cpu=(COORDINATOR_CPU, COORDINATOR_CPU),
        memory=(COORDINATOR_MEMORY, COORDINATOR_MEMORY),
        volumes={str(CACHE): cached, str(STUDIES): studies},
        timeout=COORDINATOR_SECONDS,
        scaledown_window=IDLE_SECONDS,
        max_containers=1,
        retries=modal.Retries(max_retries=10, backoff_coefficient=1.0, initial_delay=1.0),
    )(coordinator.coordinate)
    return app


def _image(wanted: Deployment) -> modal.Image:
    """Return the image: the local Python's minor version, pinned packages, and last the source."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    image = (
        modal.Image.debian_slim(python_version=version)
        .uv_pip_install(*wanted.packages)
        .env({"HF_HOME": str(CACHE / "huggingface"), "TOKENIZERS_PARALLELISM": "true"})
    )
    for source in wanted.sources:
        if source.local.is_dir():
            image = image.add_local_dir(source.local, source.remote, ignore=is_junk)
        else:
            image = image.add_local_file(source.local, source.remote)
    return image


def __getattr__(name: str) -> modal.App:
    """Make ``app`` when ``modal deploy`` asks for it, and not when a run imports this module."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    settings = load({})
    objective, spec = objective_of(settings)
    study = name_of(settings, objective)
    return make_app(Deployment.of(settings, spec, study), private_of(settings))
