"""The best model comes to this machine, whole or not at all, and once."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpo.errors import InputError
from hpo.on_modal import volumes
from hpo.on_modal.volumes import FileFacts
from hpo.publishing import publish_best
from tests.hpo.volume_support import VOLUMES, Client, fill_study
from tests.modal_loopback import ControlPlane, room_problem

MODEL = "modal://hpo-runs/demo-1/trials/0/model"
FILES = {"config.json": b"{}", "1_Pooling/config.json": b"{ }", "weights": b"0123456789" * 1000}

needs_room = pytest.mark.skipif(room_problem() is not None, reason=str(room_problem()))


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A Modal with a model."""
    with ControlPlane(tmp_path_factory.mktemp("modal")) as plane:
        Client(plane, tmp_path_factory.mktemp("maker")).script(VOLUMES)
        write_model(plane.volume("hpo-runs") / "demo-1" / "trials" / "0" / "model")
        yield plane


@pytest.fixture
def client(plane: ControlPlane, tmp_path: Path) -> Client:
    return Client(plane, tmp_path)


def write_model(directory: Path) -> None:
    for name, content in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


def content(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


@needs_room
def test_a_model_on_modal_is_fetched_once(
    plane: ControlPlane, client: Client, tmp_path: Path
) -> None:
    fill_study(f"sqlite:///{tmp_path}/hpo.db", 0.75, model=MODEL)
    said = client.hpo("pull", "--study", "demo")
    best = tmp_path / "runs" / "demo" / "best"
    assert content(best) == FILES, said.stderr
    assert said.stdout.splitlines() == [
        "best  trial 0 · 0.7500 · x=0.75",
        f"from  {MODEL}",
        "      0.0 MB fetched from Modal",
        "model runs/demo/best",
        "      from sentence_transformers import SentenceTransformer",
        '      model = SentenceTransformer("runs/demo/best")',
    ]
    before = len(plane.calls())
    assert "fetched already" in client.hpo("pull").stdout
    assert len(plane.calls()) == before
    (best / "weights").write_bytes(b"short")
    client.hpo("pull", "--out", "elsewhere")
    assert content(tmp_path / "elsewhere" / "demo" / "best") == FILES
    client.hpo("pull")
    assert content(best) == FILES


@needs_room
def test_what_is_gone_from_modal_is_named_and_the_old_model_stays(
    client: Client, tmp_path: Path
) -> None:
    gone = MODEL.replace("/0/", "/7/")
    fill_study(f"sqlite:///{tmp_path}/hpo.db", 0.75, model=gone)
    best = tmp_path / "runs" / "demo" / "best"
    write_model(best)
    said = client.hpo("pull")
    assert said.returncode == 2
    assert "hpo-runs on Modal holds no 'demo-1/trials/7/model'" in said.stderr
    assert content(best) == FILES
    assert [path.name for path in best.parent.iterdir()] == ["best"]


def pulled(home: Path, model: str | None) -> tuple[int, str]:
    """Pull the best model of a study without a token; return exit code and message."""
    fill_study(f"sqlite:///{home}/hpo.db", 0.75, model=model)
    said = Client(None, home).hpo("pull")
    return said.returncode, said.stderr + said.stdout


def test_a_local_model_is_copied_and_named(tmp_path: Path) -> None:
    model = tmp_path / "trials" / "0" / "model"
    write_model(model)
    code, said = pulled(tmp_path, str(model))
    assert code == 0
    assert f"from  {model}" in said
    assert content(tmp_path / "runs" / "demo" / "best") == FILES


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (None, "set no user attribute 'model'"),
        ("/not/here", "was written to /not/here, which is not on this machine"),
        (MODEL, "is on Modal, and no Modal token is configured"),
    ],
)
def test_why_there_is_no_model_is_said(tmp_path: Path, model: str | None, words: str) -> None:
    code, said = pulled(tmp_path, model)
    assert code == 2
    assert words in said
    assert "Traceback" not in said


class FolderFiles:
    """Volumes whose files lie in a directory of this machine, until they cannot be reached."""

    root: Path
    reachable = threading.Event()

    def __init__(self, volume: str) -> None:
        self._directory = self.root / volume

    def download(self, path: str, target: Path) -> dict[str, FileFacts]:
        if not self.reachable.is_set():
            raise InputError("Modal cannot be reached: try again later.")
        shutil.copytree(self._directory / path, target)
        return {name: FileFacts(len(content), 0.0) for name, content in FILES.items()}


def test_a_model_that_cannot_be_fetched_costs_the_study_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FolderFiles, "root", tmp_path / "modal", raising=False)
    monkeypatch.setattr(volumes, "VolumeFiles", FolderFiles)
    write_model(tmp_path / "modal" / MODEL.removeprefix("modal://"))
    study = fill_study("sqlite:///hpo.db", 0.75, model=MODEL)
    published = publish_best(study, tmp_path / "demo")
    assert published is not None
    assert published.lines("demo", " --storage x") == [
        "model stays on Modal (Modal cannot be reached: try again later.)",
        "      hpo pull --study demo --storage x fetches it",
    ]
    FolderFiles.reachable.set()
    published = publish_best(study, tmp_path / "demo")
    assert published is not None
    assert published.lines("demo", "")[0] == "model demo/best"
    assert content(tmp_path / "demo" / "best") == FILES


def test_a_local_model_takes_the_place_of_one_from_modal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FolderFiles, "root", tmp_path / "modal", raising=False)
    monkeypatch.setattr(volumes, "VolumeFiles", FolderFiles)
    FolderFiles.reachable.set()
    write_model(tmp_path / "modal" / MODEL.removeprefix("modal://"))
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "weights").write_bytes(FILES["weights"])
    url = f"sqlite:///{tmp_path}/hpo.db"
    for number, model in enumerate((MODEL, str(tmp_path / "local"), MODEL)):
        study = fill_study(url, 0.5 + number / 10, model=model)
        publish_best(study, tmp_path / "demo")
        names = set(content(tmp_path / "demo" / "best"))
        assert names == (set(FILES) if model == MODEL else {"weights"})
