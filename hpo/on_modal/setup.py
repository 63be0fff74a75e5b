"""Getting ready to run trials on Modal: the app is deployed, the cache is filled.

All of it happens before the first GPU second, and what is there already is not done again.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import modal
from modal.exception import NotFoundError
from optuna import Study

from hpo.errors import InputError
from hpo.executors.modal import ModalExecutor, Place
from hpo.modal_app import make_app
from hpo.objective import Objective
from hpo.on_modal.deployment import Deployment, modal_name
from hpo.on_modal.errors import modal_errors
from hpo.on_modal.executor import Ready, TrialPrices, make_modal_executor
from hpo.on_modal.messages import (
    CACHE,
    RUNS,
    CacheAnswer,
    CacheRequest,
    parse,
)
from hpo.on_modal.parts import batches, parts_of
from hpo.on_modal.shipping import Asset
from hpo.protocol import ObjectiveSpec
from hpo.rates import Rates, fetch_live_rates
from hpo.settings import Settings

KEY = "modal"
"""The study's user attribute that holds its name on Modal."""


def get_ready(
    objective: Objective,
    spec: ObjectiveSpec,
    wanted: Deployment,
    data: Path | None,
    key: str,
    rates: Rates,
    say: Callable[[str], None],
    private: Mapping[str, str] | None = None,
) -> Ready:
    """Deploy the app unless it is there, and fill the cache with what is not there.

    Args:
        objective: The prepared objective.
        spec: How a container finds it.
        wanted: What is to be deployed.
        data: Directory of prepared data; ``None`` if there is none.
        key: The study's name on Modal.
        rates: What seconds cost.
        say: Takes a line on what was done.
        private: Variables that only a coordinator on Modal gets.

    Raises:
        InputError: Modal refuses, or the objective cannot run there.
    """
    offered: Mapping[str, Path] = getattr(objective, "assets", dict)()
    assets = [Asset(name, path, "models") for name, path in offered.items()]
    wanted_data = Asset("data", data, "data") if data is not None else None
    everything = [*assets, *([wanted_data] if wanted_data is not None else [])]
    found = {asset: asset.place() for asset in everything}  # which reads all of them
    places = {asset.name: found[asset] for asset in assets}
    prices, fingerprint = TrialPrices(rates, wanted), wanted.fingerprint()
    with modal_errors():
        began = time.monotonic()
        containers = _deploy_unless_there(wanted, fingerprint, tuple(found.values()), private, say)
        request = CacheRequest(
            assets=tuple(found.values()), objective=spec.model_copy(update={"path": ()})
        )
        answer = _ask(wanted.name, request, places)
        for asset, name in found.items():
            if name in answer.missing:
                size = _upload(wanted.name, asset, name)
                say(f"modal {asset.kind} {asset.name}: {size / 1e6:,.1f} MB uploaded, once")
        if answer.missing:
            containers += 1
            answer = _ask(wanted.name, request, places)
        spent = prices.housekeeping(time.monotonic() - began, containers)
    if answer.error:
        raise InputError(_cannot_run(answer.error))
    place = Place(
        key=key,
        runs=f"{RUNS}/{key}",
        data=f"{CACHE}/{found[wanted_data]}" if wanted_data is not None else None,
        assets={name: f"{CACHE}/{where}" for name, where in places.items()},
    )
    return Ready(place, spent, fingerprint)


def _cannot_run(error: str) -> str:
    return (
        f"the objective cannot run on Modal: {error} What it imports from this machine is shipped "
        "with --include PATH (a module, a package or a file), a package from the registry with "
        "--pip PACKAGE."
    )


def executor_on_modal(
    objective: Objective,
    spec: ObjectiveSpec,
    settings: Settings,
    data: Path | None,
    study: Study,
    say: Callable[[str], None],
) -> ModalExecutor:
    """Get ready on Modal; return the executor for a coordinator on this machine.

    Args:
        objective: The prepared objective.
        spec: How a container finds it.
        settings: What to run it on.
        data: Directory of prepared data; ``None`` if there is none.
        study: The study.
        say: Takes lines on what was done.

    Raises:
        InputError: Modal refuses, or the objective cannot run there.
    """
    wanted = Deployment.of(settings, spec, study.study_name)
    rates = current_rates(settings, say)
    ready = get_ready(objective, spec, wanted, data, _key_of(study), rates, say)
    return make_modal_executor(wanted, ready, rates)


def current_rates(settings: Settings, say: Callable[[str], None]) -> Rates:
    """Return the prices of this run, and say where they come from."""
    live, why = fetch_live_rates()
    rates = Rates.of(settings.rates, live)
    say(f"modal {rates.source}" + (f" ({why})" if why else ""))
    return rates


def _key_of(study: Study) -> str:
    """Return the study's name on Modal: one of its own, whatever other studies are called."""
    known = study.user_attrs.get(KEY)
    if known is None:
        own = uuid.uuid4().hex[:8]
        known = f"{modal_name(study.study_name, room=len(own) + 1)}-{own}"
        study.set_user_attr(KEY, known)
    return str(known)


def _deploy_unless_there(
    wanted: Deployment,
    fingerprint: str,
    assets: Sequence[str],
    private: Mapping[str, str] | None,
    say: Callable[[str], None],
) -> int:
    """Deploy the app, unless the same one is deployed already.

    Returns:
        How many containers have worked, or will when the cache is asked.
    """
    containers = 1
    try:
        if _ask(wanted.name, CacheRequest(assets=tuple(assets)), {}).fingerprint == fingerprint:
            say(f"modal app {wanted.name} is deployed already")
            return containers
        containers += 1
    except (NotFoundError, TypeError):
        pass  # there is none yet, or one of a version that is called otherwise
    began = time.monotonic()
    make_app(wanted, private).deploy()
    say(f"modal app {wanted.name} deployed in {time.monotonic() - began:.0f} s")
    return containers


def _ask(app: str, request: CacheRequest, assets: Mapping[str, str]) -> CacheAnswer:
    function: Any = modal.Function.from_name(app, "fill_cache")
    return parse(CacheAnswer, function.remote(request.model_dump_json(), dict(assets)))


def _upload(app: str, asset: Asset, name: str) -> int:
    """Store an asset in the cache; return its size in bytes."""
    function: Any = modal.Function.from_name(app, "store")
    total = 0
    for batch in batches(parts_of(asset.files()), lambda part: len(part[2])):
        function.remote(name, batch, False)
        total += sum(len(data) for _, _, data in batch)
    function.remote(name, [], True)
    return total
