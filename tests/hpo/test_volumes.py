"""A Volume's files from here: listed, stored, fetched, removed, in parts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.errors import InputError
from hpo.on_modal import parts
from hpo.on_modal.files import write_parts
from hpo.on_modal.parts import batches, parts_of, spans_of
from hpo.on_modal.volumes import FileFacts, VolumeFiles
from tests.hpo.volume_support import VOLUMES, Client
from tests.modal_loopback import ControlPlane, room_problem

needs_room = pytest.mark.skipif(room_problem() is not None, reason=str(room_problem()))


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A Modal with empty Volumes."""
    with ControlPlane(tmp_path_factory.mktemp("modal")) as plane:
        Client(plane, tmp_path_factory.mktemp("maker")).script(VOLUMES)
        yield plane


ALL = """
import json
from pathlib import Path
from hpo.errors import InputError
from hpo.on_modal import parts
from hpo.on_modal.volumes import VolumeFiles

parts.PART_BYTES = 1000
volume = VolumeFiles("hpo-runs")
here = {"weights": b"0123456789" * 250, "sub/empty": b"", "small": b"abc"}
for name, content in here.items():
    Path("from", name).parent.mkdir(parents=True, exist_ok=True)
    Path("from", name).write_bytes(content)
volume.upload("s/model", {name: Path("from", name) for name in here})
told = volume.download("s/model", Path("to"))
volume.download("s/model/small", Path("one"))
Path("one").write_bytes(b"before")
volume.download("s/model/small", Path("one"))
refused = []
for action in (
    lambda: volume.remove([""]),
    lambda: volume.remove(["s/../.."]),
    lambda: volume.upload("/etc", {"x": Path("one")}),
    lambda: volume.download("nothing", Path("gone")),
    lambda: volume.download("s/model", Path("to")),
):
    try:
        action()
    except InputError as error:
        refused.append(str(error))
volume.remove(["s/model/sub", "s/model/weights", "nothing"])
print(json.dumps({
    "same": all(Path("to", name).read_bytes() == content for name, content in here.items()),
    "sizes": {name: facts.size for name, facts in told.items()},
    "one": Path("one").read_text(),
    "left": list(volume.listing()),
    "nothing": volume.listing("nothing"),
    "refused": refused,
    "here": sorted(path.name for path in Path().iterdir()),
}))
"""


@needs_room
def test_files_go_there_and_come_back(plane: ControlPlane, tmp_path: Path) -> None:
    said = json.loads(Client(plane, tmp_path).script(ALL))
    assert said["same"]
    assert said["sizes"] == {"weights": 2500, "sub/empty": 0, "small": 3}
    assert (said["one"], said["left"], said["nothing"]) == ("abc", ["s/model/small"], {})
    words = ["is not removed at once", "leads out", "leads out", "holds no 'nothing'", "to: "]
    for expected, message in zip(words, said["refused"], strict=True):
        assert expected in message
    assert said["here"] == ["from", "one", "to"]  # and nothing half-made


LOOK = """
import sys
from hpo.on_modal import volumes
if sys.argv[1] != "now":
    volumes.fingerprint_of = lambda: sys.argv[1]
volumes.VolumeFiles("hpo-studies").listing()
"""


@needs_room
def test_the_app_is_deployed_when_it_is_not_there_or_another(
    plane: ControlPlane, tmp_path: Path
) -> None:
    client = Client(plane, tmp_path)
    deployed = []
    for version in ("older", "now", "now"):
        before = plane.counts["AppPublish"]
        client.script(LOOK, version)
        deployed.append(plane.counts["AppPublish"] - before)
    assert deployed == [1, 1, 0]


def test_what_changes_while_it_is_fetched_is_fetched_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers of a Volume whose file another writer replaces after it was first listed."""
    answers = [
        ({"": (3, 1.0)}, []),
        ({"": (3, 2.0)}, [b"new"]),
        ({"": (3, 2.0)}, []),
        ({"": (3, 2.0)}, [b"new"]),
    ]
    monkeypatch.setattr(VolumeFiles, "_call", lambda *_: answers.pop(0))
    told = VolumeFiles("v").download("s.db", tmp_path / "s.db")
    assert told == {"": FileFacts(3, 2.0)}
    assert (tmp_path / "s.db").read_bytes() == b"new"

    monkeypatch.setattr(
        VolumeFiles, "_call", lambda self, name, path, wanted: ({"": (3, 1.0 + len(wanted))}, [])
    )
    with pytest.raises(InputError, match="changed each of 5 times"):
        VolumeFiles("v").download("s.db", tmp_path / "s.db")
    assert [path.name for path in tmp_path.iterdir()] == ["s.db"]


@given(st.lists(st.binary(max_size=30), max_size=6), st.integers(1, 12))
def test_parts_put_together_are_the_files(contents: list[bytes], limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PART_BYTES", limit)
        with tempfile.TemporaryDirectory() as name:
            source, target = Path(name, "source"), Path(name, "target")
            source.mkdir()
            files = {f"{number}": source / f"{number}" for number in range(len(contents))}
            for path, content in zip(files.values(), contents, strict=True):
                path.write_bytes(content)
            calls = list(batches(parts_of(files.items()), lambda part: len(part[2])))
            for call in calls:
                assert call
                assert sum(len(data) for _, _, data in call) <= limit
                write_parts(target, call)
            assert [(target / each).read_bytes() for each in files] == contents
            sizes = [(each, len(content)) for each, content in zip(files, contents, strict=True)]
            told = [part for call in calls for part in call]
            assert list(spans_of(sizes)) == [(part, at, len(data)) for part, at, data in told]
