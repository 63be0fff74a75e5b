"""The card of a model that leaves the project: what it is, how well it does, and how that is known.

Front matter for the Hugging Face hub, then text for people. Everything in it was recorded by the
study or the training run; what was not recorded is said to be missing rather than left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpo.text import score

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

MEASURES = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "mcc": "MCC",
}
"""The measures that a card shows, in this order, and what people call them."""

HUB_METRICS = ("roc_auc", "average_precision", "accuracy", "f1")
"""Those that go into the front matter, under the names that the hub has for them."""

TAGS = ("sentence-transformers", "sentence-similarity", "feature-extraction", "hpo")

UNKNOWN_LICENCE = "unknown, see the base model"


@dataclass(frozen=True)
class Card:
    """What a card says.

    Attributes:
        place: How to load the model: its directory, or its id on the hub.
        params: All parameters.
        metrics: The model's metrics on the validation pairs.
        made: How it was made, a value a label.
        origin: What is known of the base model; see ``objectives.origin.origin_of``.
        untuned: The metrics of the untuned base model on the same pairs; ``None`` if unknown.
        data: The manifest of the data; ``None`` if it is not at hand.
        rules: What the study required of the model, and whether it meets that.
        test: The evaluation on the test split; ``None`` if it was not opened for this model.
    """

    place: str
    params: Mapping[str, Any]
    metrics: Mapping[str, Any]
    made: Mapping[str, Any]
    origin: Mapping[str, Any] = field(default_factory=dict)
    untuned: Mapping[str, Any] | None = None
    data: Mapping[str, Any] | None = None
    rules: Sequence[str] = ()
    test: Mapping[str, Any] | None = None


def render(card: Card) -> str:
    """Return the text of README.md."""
    sections = [
        f"---\n{_front_matter(card).to_yaml()}\n---",
        f"# {_title(card)}",
        _introduction(card),
        "## Use\n\n" + _usage(card),
        "## Validation\n\n" + _validation(card),
        "## Test split\n\n" + _test(card.test),
        "## Data\n\n" + _data(card.data),
        "## Parameters\n\n" + _table(("parameter", "value"), shareable(card).items()),
        "## How it was made\n\n" + _table(("", ""), card.made.items()),
        "## Licence\n\n" + _licence(card.origin),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(card: Card) -> ModelCardData:
    from huggingface_hub import EvalResult, ModelCardData

    known = {name: _number(card.metrics.get(name)) for name in HUB_METRICS}
    found = {name: value for name, value in known.items() if value is not None}
    results = [
        EvalResult(
            task_type="sentence-similarity",
            dataset_type="unknown",
            dataset_name=_source(card.data),
            dataset_split="validation",
            metric_type=name,
            metric_name=MEASURES[name],
            metric_value=round(value, 4),
        )
        for name, value in found.items()
    ]
    more = {name: card.origin.get(name) for name in ("license_name", "license_link")}
    return ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        base_model=card.origin.get("hub"),
        license=card.origin.get("license"),
        tags=list(TAGS),
        metrics=list(found) or None,
        model_name=_title(card) if results else None,
        eval_results=results or None,
        **{name: value for name, value in more.items() if value},
    )


def shareable(card: Card) -> dict[str, Any]:
    """Return the parameters, a base model on a local disk by its name alone."""
    own = {"base_model": card.origin["name"]} if card.origin else {}
    return {**card.params, **own}


def _title(card: Card) -> str:
    return f"{_base(card)} fine-tuned on {_source(card.data)}"


def _base(card: Card) -> str:
    return str(card.origin.get("name", "a base model"))


def _source(data: Mapping[str, Any] | None) -> str:
    """Return where the pairs came from: a name, without the directories of whoever had them."""
    if data is None:
        return "labelled pairs"
    return _without_directories(str(data.get("source")))


def _without_directories(name: str) -> str:
    """Return the last part of what is a path, and anything else, such as a hub's id, as it is."""
    is_path = name[:1] in ("/", ".", "~") or name.count("/") > 1 or Path(name).suffix
    return Path(name).name if is_path else name


def _introduction(card: Card) -> str:
    dimension = card.metrics.get("dimension")
    length = f"{dimension:,} numbers" if isinstance(dimension, int) else "a vector"
    hub, layers = card.origin.get("hub"), card.origin.get("layers")
    base = f"[{hub}](https://huggingface.co/{hub})" if hub else f"`{_base(card)}`"
    kept = f"the first {layers} layers of " if layers else ""
    return (
        f"A sentence-transformers model that maps a text to {length}, fine-tuned from {kept}{base}."
        " The higher the cosine of two vectors, the more likely the texts mean the same."
    )


def _usage(card: Card) -> str:
    threshold = _number(card.metrics.get("threshold"))
    lines = [
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "from sentence_transformers.util import pairwise_cos_sim",
        "",
        f'model = SentenceTransformer("{card.place}")',
        'first = model.encode(["How do I learn Python?"])',
        'second = model.encode(["What is a good way to learn Python?"])',
        "cosine = pairwise_cos_sim(first, second)",
    ]
    if threshold is None:
        return "\n".join([*lines, "```"])
    lines += [f"same = cosine >= {threshold:.6g}", "```", ""]
    lines += [
        f"The threshold {threshold:.6g} is the one that is right most often on the validation "
        "pairs. Where a missed pair and a false alarm do not cost the same, choose another."
    ]
    return "\n".join(lines)


def _validation(card: Card) -> str:
    measures = {name: _number(card.metrics.get(name)) for name in MEASURES}
    rows = [
        (MEASURES[name], score(value), *_beside(card.untuned, name, value))
        for name, value in measures.items()
        if value is not None
    ]
    if not rows:
        return "No metric was recorded."
    header = ("measure", "this model", *(("untuned base", "difference") if card.untuned else ()))
    parts = [_table(header, rows), _pairs(card.metrics)]
    if card.untuned is None:
        parts.append("The untuned base model was not scored on these pairs.")
    if card.rules:
        parts.append("\n".join(f"- {rule}" for rule in card.rules))
    return "\n\n".join(part for part in parts if part)


def _beside(untuned: Mapping[str, Any] | None, name: str, value: float) -> tuple[str, ...]:
    if not untuned:
        return ()
    before = _number(untuned.get(name))
    return (score(before), f"{value - before:+.4f}") if before is not None else ("", "")


def _pairs(metrics: Mapping[str, Any]) -> str:
    pairs, positives = metrics.get("pairs"), metrics.get("positives")
    if not (isinstance(pairs, int) and isinstance(positives, int)):
        return ""
    return (
        f"Measured on {pairs:,} validation pairs, {positives:,} of which mean the same. Each model "
        "has a threshold of its own, chosen on these same pairs, as were the parameters if a "
        "search chose them: the numbers are a little optimistic. ROC AUC and average precision "
        "need no threshold."
    )


def _test(test: Mapping[str, Any] | None) -> str:
    if not test:
        return "The test split was not opened for this model."
    rows = [
        (MEASURES[name], *_estimate(test["measures"][name]))
        for name in MEASURES
        if name in test["measures"]
    ]
    said = (
        f"Measured on {test['pairs']:,} pairs that neither trained the model nor chose its "
        "parameters, at the threshold above. Intervals are by bootstrap over groups of pairs that "
        "share a text."
    )
    parts = [_table(("measure", "value", "95 % interval"), rows), said]
    beside = [
        (
            ", ".join(_without_directories(str(part)) for part in each["params"].values()),
            *_estimate(each["differences"]["roc_auc"]),
        )
        for each in test.get("baselines", ())
        if "roc_auc" in each.get("differences", {})
    ]
    if beside:
        parts.append(_table(("ROC AUC beyond", "difference", "95 % interval"), beside))
    return "\n\n".join([*parts, *([test["caution"]] if test.get("caution") else [])])


def _estimate(measure: Mapping[str, Any]) -> tuple[str, str]:
    low, high = score(measure["low"]), score(measure["high"])
    return score(measure["value"]), f"{low} to {high}"


def _data(data: Mapping[str, Any] | None) -> str:
    if data is None:
        return "The record of the data was not at hand when this card was written."
    validation, used = data["validation_split"], data["validation"]
    some = "" if used == validation else f", {used:,} of which score models"
    rows = [
        ("source", _source(data)),
        ("content", f"SHA-256 {data['content']}"),
        ("pairs", f"{data['pairs']:,}, {data['positives']:,} of which mean the same"),
        ("training", f"{data['train']:,}"),
        ("validation", f"{validation:,}{some}"),
        ("test", f"{data['test']:,}"),
        ("seed of the splits", data["seed"]),
    ]
    return _table(("", ""), rows) + "\n\nNo text is in two splits."


def _licence(origin: Mapping[str, Any]) -> str:
    if not origin.get("license"):
        return f"Licence of the base model: {UNKNOWN_LICENCE}."
    named = origin.get("license_name") or origin["license"]
    link = f" ({origin['license_link']})" if origin.get("license_link") else ""
    return f"The base model is under {named}{link}, as its own card says."


def _table(header: Sequence[str], rows: Any) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _number(value: Any) -> float | None:
    """Return a recorded number, if it is one: an objective may have recorded anything."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None
