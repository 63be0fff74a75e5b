"""The finals of a study on Modal: where winners lie, what they cost, where the test split goes."""

from __future__ import annotations

from hpo.evaluation import EVALUATION, EVALUATION_ATTEMPTS, OPENINGS
from hpo.finalists import FINALIST_ATTEMPTS, FINALISTS, WINNER
from hpo.on_modal.messages import RUNS_VOLUME
from tests.hpo.modal_objectives import SEALED
from tests.hpo.modal_support import Modal


def test_only_the_evaluation_of_the_winner_gets_the_test_split(on_modal: Modal) -> None:
    """One study for all of it, as containers take a while to start."""
    before = on_modal.bill()
    ran = on_modal.run("sealed", 3, finalists=2, seeds=2)
    study = on_modal.study()
    attrs = study.user_attrs
    evaluation, winner = attrs[EVALUATION], attrs[WINNER]
    assert evaluation["pairs"] == 200_000
    assert evaluation["measures"]["roc_auc"]["value"] == winner["value"] / 10
    assert len(attrs[OPENINGS]) == 1
    # Not in a message to a trial, nor anywhere that a trial can look.
    secret = SEALED.encode()
    (holding,) = [call for call in ran.calls if secret in on_modal.plane.arguments(call)]
    (attempt,) = attrs[EVALUATION_ATTEMPTS][0]["attempts"]
    assert holding.id == attempt["handle"]["call"]
    assert len(ran.calls) == 3 + 4 + 1
    assert all(trial.user_attrs["seen"] == [] for trial in study.trials)
    runs = on_modal.plane.volume(RUNS_VOLUME)
    kept = [path for path in runs.parent.rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if secret in path.read_bytes()]
    # The winner's weights are where everybody finds them, and what cannot win is gone.
    assert winner["model"].startswith(f"modal://{RUNS_VOLUME}/")
    assert (on_modal.directory / "runs" / "there" / "best" / "weights").is_file()
    left = {path.parent.name for path in runs.glob("*/finalists/*/model")}
    assert f"{winner['trial']}-{winner['run']}" in left
    assert left < {f"{each['trial']}-{each['run']}" for each in attrs[FINALISTS]}
    # All of it is paid for like trials.
    records = [
        attempt
        for kind in (FINALIST_ATTEMPTS, EVALUATION_ATTEMPTS)
        for each in attrs[kind]
        for attempt in each["attempts"]
    ]
    assert len(records) == 5
    assert all(each["dollars"] > 0 and each["cause"] == "ok" for each in records)
    assert on_modal.bill() - before <= ran.outcome.status.spent
