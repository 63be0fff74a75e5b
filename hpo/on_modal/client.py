"""Starting a coordinator on Modal, and following it for as long as anybody likes.

What needs this machine is done here: reading the data, splitting it, filling the cache. Then the
study is handed to a coordinator on Modal, and this side may go.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import modal

from hpo.errors import InputError, StudyStoppedError
from hpo.objective import Objective, spec_of
from hpo.on_modal.calls import UNREACHABLE, NoResult, ask
from hpo.on_modal.deployment import (
    Deployment,
    app_name,
    modal_name,
    private_of,
    volume_of,
)
from hpo.on_modal.errors import modal_errors
from hpo.on_modal.messages import NEWS, STUDIES_VOLUME, parse
from hpo.on_modal.orders import Order, Result
from hpo.on_modal.setup import current_rates, get_ready
from hpo.on_modal.shipping import text_hash
from hpo.on_modal.volumes import VolumeFiles
from hpo.opening import check_requirements, name_of, prepare
from hpo.protocol import ObjectiveSpec
from hpo.pull import pull_best
from hpo.queries import find_study
from hpo.sampling import make_pruner, make_sampler
from hpo.settings import Settings
from storage import StorageError, mask_url

COORDINATORS = "hpo-coordinators"
"""The Dict that knows the call of each study's coordinator."""

FOLLOW_SECONDS = 5.0
"""How often the coordinator's call is asked whether it has ended."""


def run_there(
    objective: Objective, spec: ObjectiveSpec, settings: Settings, say: Callable[[str], None]
) -> int:
    """Let a coordinator on Modal run a study, and follow it; return the exit code.

    Raises:
        InputError: Bad input, or Modal refuses.
        StudyStoppedError: The coordinator ended without a result.
    """
    name = name_of(settings, objective)
    settings = _settled(settings, name)
    volume, file = volume_of(settings.storage)
    own = text_hash(f"{volume}/{file}/{name}")[:8]
    key = f"{modal_name(name, room=len(own) + 1)}-{own}"
    shown = mask_url(settings.storage)
    with modal_errors():
        call = _running(key)
        if call is None:
            order = _order(objective, spec, settings, name, key, (volume, file), say)
            call = _start(order)
            say(f"study {name} · its coordinator is on Modal: {shown}")
        else:
            say(f"study {name} · its coordinator runs already; its own settings hold")
        say("Ctrl-C ends only this view; the same command follows the study again")
        say(f"end it with: modal app stop {app_name(name)}")
        try:
            code = _follow(call, key, say)
        except KeyboardInterrupt:
            say(f"the study goes on; ask  hpo best --study {name} --storage {shown}")
            return 0
    if code == 0:
        _bring_home(name, settings, say)
    return code


def _bring_home(name: str, settings: Settings, say: Callable[[str], None]) -> None:
    """Fetch the best model; a study without one, or out of reach, has ended well all the same."""
    try:
        pull_best(find_study(name, settings.storage), settings.out, say)
    except (InputError, StorageError) as error:
        say(f"model is not fetched: {error}")


def _settled(settings: Settings, name: str) -> Settings:
    """Return settings with a storage that a coordinator on Modal can own.

    Raises:
        InputError: The storage is a file of this machine.
    """
    if settings.storage == "sqlite:///hpo.db":
        url = f"modal://{STUDIES_VOLUME}/{name}.db"
        return settings.model_copy(update={"storage": url})
    if settings.storage.startswith("sqlite:"):
        raise InputError(
            f"{settings.source_of('storage')} {settings.storage}: a coordinator on Modal cannot "
            f"own a file of this machine; leave it out for modal://{STUDIES_VOLUME}/{name}.db, or "
            "name a PostgreSQL server that Modal can reach."
        )
    return settings


def _order(
    objective: Objective,
    spec: ObjectiveSpec,
    settings: Settings,
    name: str,
    key: str,
    where: tuple[str, str],
    say: Callable[[str], None],
) -> Order:
    """Do what needs this machine; return what the coordinator is told."""
    check_requirements(settings, objective)
    make_sampler(settings.sampler, settings.seed)
    make_pruner(settings.pruner)
    directory = (settings.out / name).resolve()
    prepared, lines = prepare(objective, directory, settings.seed)
    if prepared is not objective:
        spec = spec_of(prepared) or spec
    for line in lines:
        say(line)
    wanted = Deployment.of(settings, spec, name)
    rates = current_rates(settings, say)
    has_data = hasattr(prepared, "prepare")
    data = directory / "data" if has_data else None
    ready = get_ready(prepared, spec, wanted, data, key, rates, say, private_of(settings))
    if has_data:
        VolumeFiles(where[0]).upload(name, _kept(directory))
    hidden = {"storage", "config", "coordinator", "out", "objective"}
    told = settings.model_dump(mode="json", exclude=hidden)
    return Order(
        app=wanted.name,
        study=name,
        key=key,
        volume=where[0],
        file=where[1] or f"{name}.db",
        url=mask_url(settings.storage),
        settings={**told, "study": name, "executor": "modal"},
        objective=spec.model_copy(update={"path": ()}),
        deployment=wanted,
        place=ready.place,
        rates=rates,
        spent=ready.spent,
    )


def _kept(directory: Path) -> dict[str, Path]:
    """Return the files of a study that its coordinator needs: the manifest and the test split."""
    wanted = ("data/manifest.json", "test.jsonl")
    return {name: directory / name for name in wanted if (directory / name).exists()}


def _running(key: str) -> modal.FunctionCall[str] | None:
    """Return the call of the study's coordinator if it runs."""
    known = modal.Dict.from_name(COORDINATORS, create_if_missing=True).get(key)
    if known is None:
        return None
    call: modal.FunctionCall[str] = modal.FunctionCall.from_id(known)
    said = ask(call, 0)
    if said is None:
        return call
    if isinstance(said, NoResult):
        return None
    result = parse(Result, said)
    return modal.FunctionCall.from_id(result.successor) if result.successor else None


def _start(order: Order) -> modal.FunctionCall[str]:
    function: Any = modal.Function.from_name(order.app, "coordinate")
    call: modal.FunctionCall[str] = function.spawn(order.model_dump_json())
    modal.Dict.from_name(COORDINATORS, create_if_missing=True)[order.key] = call.object_id
    return call


def _follow(call: modal.FunctionCall[str], key: str, say: Callable[[str], None]) -> int:
    """Tell what the coordinator tells until it ends; return the exit code."""
    news = modal.Queue.from_name(key, create_if_missing=True)
    looked = 0.0
    while True:
        try:
            lines = news.get_many(100, partition=NEWS, timeout=1.0)
        except queue.Empty:
            lines = []
        except UNREACHABLE:
            time.sleep(1.0)
            continue
        for line in lines:
            say(line)
        if lines or time.monotonic() - looked < FOLLOW_SECONDS:
            continue
        looked = time.monotonic()
        try:
            said = ask(call, 0)
        except UNREACHABLE:
            continue
        if said is None:
            continue
        if isinstance(said, NoResult):
            raise StudyStoppedError(
                f"the coordinator on Modal ended: {said.why}; the same command goes on from its "
                "last snapshot."
            )
        result = parse(Result, said)
        if result.successor is None:
            if result.error:
                say(f"hpo: stopped: {result.error}")
            return result.code
        call = modal.FunctionCall.from_id(result.successor)
