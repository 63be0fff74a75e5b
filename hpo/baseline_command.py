"""``hpo baseline``: score a model that is no trial of the study, and let it join as a line to beat.

Everything that can be refused is refused before the first request is paid for, and what a model may
cost is agreed to before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.cli_common import database_errors, errors, say
from hpo.cli_study import Name, Storage

if TYPE_CHECKING:
    from hpo.contenders import Contender, Score
    from hpo.queries import Found


def baseline(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A Hugging Face id or a local path (NAME@layers=3 keeps 3 layers), or a model "
            "behind an API: openai:NAME, cohere:NAME or voyage:NAME.",
        ),
    ],
    study: Name = None,
    storage: Storage = None,
    dimensions: Annotated[
        int | None,
        typer.Option(min=1, help="Dimensions of vectors from an API. [default: the model's]"),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Agree to what an API may cost without being asked.")
    ] = False,
) -> None:
    """Score a model on the study's validation pairs, as a line for its trials to beat.

    Keys come from the environment: OPENAI_API_KEY, CO_API_KEY, VOYAGE_API_KEY. Vectors that were
    paid for are kept in the cache directory of the user, and not asked for again.
    """
    with errors(), database_errors():
        from hpo.queries import find_study

        score_models(find_study(study, storage, to_write=True), models, dimensions, yes, say)


def score_models(
    found: Found,
    models: Sequence[str],
    dimensions: int | None,
    yes: bool,
    say: Callable[[str], None],
) -> None:
    """Score ``models`` and let each join the study as soon as it is scored.

    Args:
        found: The study.
        models: Models as people name them.
        dimensions: How long vectors of models behind an API are to be.
        yes: Whether the cost was agreed to beforehand.
        say: Takes lines for people.

    Raises:
        InputError: A model, the study, or the cost is refused.
    """
    from hpo.baseline_joining import check_joinable, join
    from hpo.contenders import contenders

    wanted = contenders(found, models, dimensions, found.settings.rates)
    check_joinable(found)
    agree_to_cost(wanted, yes, say)
    for contender in wanted:
        score = contender(say)
        join(found, _record(contender, score))
        say(_line(found, contender, score))


def agree_to_cost(wanted: Sequence[Contender], yes: bool, say: Callable[[str], None]) -> None:
    """Say what models may cost, and see that somebody agrees to it if that is anything.

    Raises:
        InputError: There is nobody to ask, or they said no.
    """
    from hpo.asking import agrees, can_ask
    from hpo.budget import dollars
    from hpo.contenders import name_of
    from hpo.errors import InputError

    lines, paid = [], False
    for contender in wanted:
        found = contender.estimate()
        if found.texts == 0:
            continue
        paid = paid or found.dollars != 0
        cost = "nothing to pay" if found.tokens == 0 else f"about {found.tokens:,} tokens"
        if found.tokens > 0:
            price = "" if found.dollars is None else f", {dollars(found.dollars)}"
            cost += f"{price} ({found.source})"
        cached = f", {found.cached:,} of them cached" if found.cached else ""
        lines.append(f"{name_of(contender)}: {found.texts:,} texts{cached} · {cost}")
    for line in lines:
        say(line)
    if not paid or yes:
        return
    if not can_ask():
        raise InputError(
            "this costs money, and nobody can be asked: agree to it with --yes. Estimates are high "
            "on purpose."
        )
    if not agrees("Go on?"):
        raise InputError("not agreed to: no request was made.")


def _record(contender: Contender, score: Score) -> dict[str, Any]:
    """Return what the study keeps of a score, in the shape of its own untuned models' scores."""
    return {
        "params": contender.params,
        "value": score.value,
        "metrics": score.metrics,
        "cost": {"dollars": score.dollars, "tokens": score.tokens},
        "source": contender.source,
    }


def _line(found: Found, contender: Contender, score: Score) -> str:
    from hpo.contenders import name_of
    from hpo.text import score as shown

    names = found.study.metric_names
    pairs = score.metrics.get("pairs")
    parts = [f"{name_of(contender)}: {names[0] if names else 'value'} {shown(score.value)}"]
    if pairs is not None:
        parts[0] += f" on {pairs:,} pairs"
    if score.tokens:
        parts.append(f"{score.tokens_now:,} tokens billed now{_priced(score.dollars_now)}")
        if score.tokens_now < score.tokens:
            parts.append(f"{score.tokens:,} over all{_priced(score.dollars)}")
    return " · ".join(parts)


def _priced(amount: float | None) -> str:
    from hpo.budget import dollars

    return ", price unknown" if amount is None else f", {dollars(amount)}"
