"""A model leaves the project: whole, with a card that says what the study says of it."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import optuna
import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner, Result

from hpo.cli import app
from hpo.model_card import Card, render
from hpo.on_modal import volumes
from hpo.on_modal.volumes import FileFacts
from hpo.winners import Chosen
from objectives.pairs import read_jsonl
from tests.hpo.tiny_study import TinyStudy, tiny_study
from tests.hpo.volume_support import fill_study
from tests.objectives.conftest import pairs_file, tiny_model
from tests.objectives.test_finetune import plain_score

__all__ = ["pairs_file", "tiny_model", "tiny_study"]  # fixtures, which pytest finds here


def hpo_command(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def export(study: TinyStudy, *arguments: str) -> Result:
    return hpo_command("export", "--study", "tiny", "--storage", study.url, *arguments)


def refusal(result: Result) -> str:
    """Return the message of a command that refused what it was given."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    return result.stderr


@pytest.fixture(scope="module")
def exported(tiny_study: TinyStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best model, exported."""
    out = tmp_path_factory.mktemp("exported") / "model"
    said = export(tiny_study, "--out", str(out))
    assert said.exit_code == 0, said.output
    assert f'SentenceTransformer("{out}")' in said.stdout
    return out


def test_the_exported_model_scores_what_the_study_says(
    tiny_study: TinyStudy, exported: Path
) -> None:
    winner = tiny_study.winner()
    score, dimension = plain_score(str(exported), read_jsonl(tiny_study.validation))
    assert score == pytest.approx(winner.metrics["roc_auc"], abs=5e-5)
    assert dimension == winner.trial.params["dimension"]
    tested = tiny_study.found().study.user_attrs["evaluation"]["measures"]["roc_auc"]["value"]
    score, _ = plain_score(str(exported), read_jsonl(tiny_study.test))
    assert score == pytest.approx(tested, abs=5e-5)
    assert [each.name for each in exported.parent.iterdir()] == ["model"]
    assert all(path.stat().st_mode & 0o044 for path in exported.rglob("*"))


def test_the_card_says_what_the_study_says(
    tiny_study: TinyStudy, tiny_model: Path, pairs_file: Path, exported: Path
) -> None:
    study = tiny_study.found().study
    winner = tiny_study.winner()
    metrics, value = winner.metrics, winner.metrics["roc_auc"]
    tested = study.user_attrs["evaluation"]
    card = ModelCard.load(exported / "README.md")
    front = card.data.to_dict()
    assert front["library_name"] == "sentence-transformers"
    assert front["pipeline_tag"] == "sentence-similarity"
    assert (front["license"], front["license_name"]) == ("other", "tiny-1.0")
    assert "base_model" not in front  # it is on no hub
    results = {each.metric_type: each.metric_value for each in card.data.eval_results}
    assert results["roc_auc"] == round(metrics["roc_auc"], 4)
    manifest = json.loads((tiny_study.runs / "tiny" / "data" / "manifest.json").read_text())
    untuned = study.user_attrs["baselines"][0]["metrics"]["roc_auc"]
    text = card.text
    for words in (
        "# encoder fine-tuned on words.jsonl",
        f"| ROC AUC | {value:.4f} | {untuned:.4f} | {value - untuned:+.4f} |",
        f"on {metrics['pairs']} validation pairs, {metrics['positives']} of which",
        f"same = cosine >= {metrics['threshold']:.6g}",
        f"SHA-256 {manifest['content']}",
        f"| training | {manifest['train']} |",
        "| base_model | encoder |",
        f"| dimension | {winner.trial.params['dimension']} |",
        "| study | tiny |",
        f"| trial | {winner.trial.number} |",
        "the mean of 2 seeds on validation",
        "requires recall>=0: met",
        f"| ROC AUC | {tested['measures']['roc_auc']['value']:.4f} |",
        f"Measured on {tested['pairs']} pairs that neither trained the model",
        "The base model is under tiny-1.0",
        'SentenceTransformer("model")',
    ):
        assert words in text, words
    everything = text + (exported / "hpo.json").read_text() + card.content
    assert str(tiny_model.parent) not in everything
    assert str(pairs_file.parent) not in everything


def test_the_model_in_its_place_has_a_card_too(tiny_study: TinyStudy) -> None:
    place = tiny_study.runs / "tiny" / "best"
    text = (place / "README.md").read_text()
    assert f'SentenceTransformer("{place}")' in text
    assert "Measured on 60 pairs that neither trained the model" in text


def test_its_code_runs_as_it_stands(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (exported / "README.md").read_text()
    monkeypatch.chdir(exported.parent)
    names: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    threshold = json.loads((exported / "hpo.json").read_text())["metrics"]["threshold"]
    assert names["same"].tolist() == [names["cosine"].item() >= threshold]


def test_what_hpo_exported_is_replaced_and_what_it_did_not_is_left(
    tiny_study: TinyStudy, exported: Path, tmp_path: Path
) -> None:
    (exported / "stale").touch()
    assert export(tiny_study, "--out", str(exported)).exit_code == 0
    assert not (exported / "stale").exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert export(tiny_study, "--out", str(empty)).exit_code == 0
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    assert "is not empty, and was not exported by hpo" in refusal(
        export(tiny_study, "--out", str(mine))
    )
    assert "is a file" in refusal(export(tiny_study, "--out", str(mine / "thesis.tex")))
    assert "cannot write" in refusal(export(tiny_study, "--out", str(mine / "thesis.tex" / "x")))
    assert [each.name for each in mine.iterdir()] == ["thesis.tex"]


def test_a_trial_without_weights_is_refused_with_the_way_out(
    tiny_study: TinyStudy, tmp_path: Path
) -> None:
    other = 1 - tiny_study.found().study.best_trial.number
    said = refusal(export(tiny_study, "--trial", str(other), "--out", str(tmp_path / "x")))
    assert f"hpo train --study tiny --params {other} --out DIR" in said
    said = refusal(export(tiny_study, "--trial", "7", "--out", str(tmp_path / "x")))
    assert "has no trial 7; it has 2 trials" in said
    assert not list(tmp_path.iterdir())


def test_weights_on_modal_are_fetched_or_said_to_be_gone(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Files:
        def __init__(self, volume: str) -> None:
            assert volume == "hpo-runs"

        def download(self, path: str, target: Path) -> dict[str, FileFacts]:
            if path != "s-1/trials/0/model":
                raise volumes.MissingError(f"the Volume holds no {path!r}")
            shutil.copytree(exported, target)
            return {"weights": FileFacts(3_000_000, 0.0)}

    monkeypatch.setattr(volumes, "VolumeFiles", Files)
    url, out = f"sqlite:///{tmp_path}/hpo.db", tmp_path / "out"
    fill_study(url, 0.5, study="far", model="modal://hpo-runs/s-1/trials/0/model")
    said = hpo_command("export", "--storage", url, "--out", str(out))
    assert "      3.0 MB fetched from Modal" in said.stdout.splitlines()
    assert (out / "model.safetensors").is_file()
    fill_study(url, 0.9, study="far", model="modal://hpo-runs/s-1/trials/9/model")
    said = refusal(hpo_command("export", "--storage", url, "--out", str(out)))
    assert "hpo train --study far --params 1 --out DIR" in said
    assert (out / "model.safetensors").is_file()


def test_what_is_no_sentence_transformer_is_refused(tmp_path: Path) -> None:
    url, model = f"sqlite:///{tmp_path}/hpo.db", tmp_path / "model"
    model.mkdir()
    out = tmp_path / "out"
    fill_study(url, 0.5, study="other", model=str(model))
    said = refusal(hpo_command("export", "--storage", url, "--out", str(out)))
    assert "holds no modules.json" in said
    (model / "modules.json").touch()
    assert hpo_command("export", "--storage", url, "--out", str(out)).exit_code == 0
    assert (
        "Licence of the base model: unknown, see the base model." in (out / "README.md").read_text()
    )
    fill_study(url, 0.9, study="other")
    assert "left no model" in refusal(hpo_command("export", "--storage", url, "--out", str(out)))


def test_of_several_directions_one_is_to_be_chosen(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/hpo.db"
    study = optuna.create_study(storage=url, study_name="two", directions=["minimize"] * 2)
    study.add_trial(optuna.create_trial(values=[0.0, 1.0]))
    said = refusal(hpo_command("export", "--storage", url, "--out", str(tmp_path / "x")))
    assert "no trial is best in all of them" in said


def test_the_test_split_has_its_own_section_once_it_was_opened(tiny_study: TinyStudy) -> None:
    from hpo.exporting import test_scores

    study = optuna.create_study()
    estimate = {"value": 0.9, "low": 0.88, "high": 0.915}
    known = {"pairs": 70, "measures": {"roc_auc": estimate}, "baselines": []}
    study.set_user_attr("evaluation", {"trial": -1, "run": None, **known})
    assert test_scores(study, Chosen(optuna.trial.create_trial(value=0.0), {"run": 1})) is None
    scores = test_scores(study, Chosen(optuna.trial.create_trial(value=0.0)))
    text = render(Card(place="m", params={}, metrics={}, made={}, test=scores))
    assert "| ROC AUC | 0.9000 | 0.8800 to 0.9150 |" in text


class Hub:
    """As much of the Hugging Face hub as an upload needs, on this machine."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.created: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(200, {"id": "me/model", "private": True, "siblings": []})

            def do_POST(self) -> None:
                hub.tokens.add(self.headers.get("authorization"))
                length = int(self.headers.get("content-length") or 0)
                body = self.rfile.read(length)
                if self.headers.get("authorization") == "Bearer wrong":
                    self._answer(401, {"error": "Invalid credentials"})
                elif self.path == "/api/repos/create":
                    hub.created.append(json.loads(body))
                    self._answer(200, {"url": f"{hub.url}/me/model", "id": "me/model"})
                elif "/preupload/" in self.path:
                    names = [each["path"] for each in json.loads(body)["files"]]
                    files = [
                        {"path": name, "uploadMode": "regular", "shouldIgnore": False}
                        for name in names
                    ]
                    self._answer(200, {"files": files})
                elif "/commit/" in self.path:
                    for line in map(json.loads, body.splitlines()):
                        if line["key"] == "file":
                            hub.files[line["value"]["path"]] = line["value"]["content"]
                    commit = {"commitUrl": f"{hub.url}/me/model/commit/1", "commitOid": "1"}
                    self._answer(200, {"success": True, **commit})
                else:  # the check of the card's front matter
                    self._answer(200, {"errors": [], "warnings": []})

            def _answer(self, code: int, content: dict[str, Any]) -> None:
                data = json.dumps(content).encode()
                self.send_response(code)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    yield made
    made.close()


@pytest.fixture
def at_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub that the client talks to; whoever runs the tests has no token for it."""
    # What HF_ENDPOINT and HF_HOME set, which the client reads on import.
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return hub


def test_it_goes_to_the_hub_whole_and_in_private(
    tiny_study: TinyStudy, at_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setenv("HF_TOKEN", "secret")
    said = export(tiny_study, "--out", str(out), "--push-to-hub", "me/model")
    assert said.exit_code == 0, said.output
    assert f"hub   {at_hub.url}/me/model (private: only you can see it)" in said.stdout
    assert "secret" not in said.output
    assert at_hub.created[0]["visibility"] == "private"
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert set(at_hub.files) == files
    assert {"README.md", "model.safetensors", "modules.json"} <= files
    assert at_hub.tokens == {"Bearer secret"}
    assert 'SentenceTransformer("me/model")' in (out / "README.md").read_text()


def test_why_it_does_not_go_to_the_hub_is_said(
    tiny_study: TinyStudy, at_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def refused(hub_id: str) -> str:
        return refusal(export(tiny_study, "--out", str(out), "--push-to-hub", hub_id))

    assert "set HF_TOKEN" in refused("me/model")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert "is no id of the hub" in refused("no such id")
    assert not out.exists()  # nothing is exported before that is known
    said = refused("me/model")
    assert "the hub answered 401: the token in HF_TOKEN is wrong" in said
    assert f"The model is at {out}; the same command tries again." in said
    at_hub.close()
    assert "the hub cannot be reached" in refused("me/model")
    assert (out / "modules.json").is_file()
