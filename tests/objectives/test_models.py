"""Base models by name: what is read of them without loading, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from objectives.models import ModelError, ModelFacts, ModelName, inspect_model, parse_model


@pytest.mark.parametrize(
    ("text", "name", "short"),
    [
        ("all-MiniLM-L6-v2", ModelName("all-MiniLM-L6-v2"), "MiniLM"),
        ("all-MiniLM-L6-v2@layers=3", ModelName("all-MiniLM-L6-v2", 3), "MiniLM@3"),
        ("BAAI/bge-base-en-v1.5", ModelName("BAAI/bge-base-en-v1.5"), "bge-base-en-v1.5"),
        ("./models/own@layers=12", ModelName("./models/own", 12), "own@12"),
        ("/data/user@home/model", ModelName("/data/user@home/model"), "model"),
    ],
)
def test_names(text: str, name: ModelName, short: str) -> None:
    assert parse_model(text) == name
    assert str(name) == text
    assert name.short == short


@pytest.mark.parametrize(
    "text", ["", "@layers=3", "a@layers=0", "a@layers=-1", "a@layers=x", "a@layer=3"]
)
def test_a_name_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="model"):
        parse_model(text)


def test_facts_of_a_local_model(tiny_model: Path) -> None:
    assert inspect_model(ModelName(str(tiny_model))) == ModelFacts(dimension=32, layers=3)
    assert inspect_model(ModelName(str(tiny_model), 2)) == ModelFacts(dimension=32, layers=2)
    with pytest.raises(ModelError, match="has 3 layers, so 4 cannot be kept; ask for at most 3"):
        inspect_model(ModelName(str(tiny_model), 4))


def test_a_dense_module_decides_the_dimension(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 32, "num_hidden_layers": 3}))
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "3_Normalize"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "2_Dense").mkdir()
    dense = {"in_features": 32, "out_features": 16}
    (tmp_path / "2_Dense" / "config.json").write_text(json.dumps(dense))
    assert inspect_model(ModelName(str(tmp_path))).dimension == 16


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"there is no model '{tmp_path}'.*give the path"):
        inspect_model(ModelName(str(tmp_path)))


def test_a_model_that_only_a_hub_could_have_is_refused_at_once(
    tmp_path: Path,
) -> None:
    script = (
        "from objectives.models import *\n"
        "import sys\n"
        "try: inspect_model(parse_model('nobody/no-such-model'))\n"
        "except ModelError as error: print(error, 'torch' in sys.modules)"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": ""}
    found = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
        timeout=60,
        check=True,
    )
    assert "there is no model 'nobody/no-such-model'" in found.stdout
    assert "HF_HUB_OFFLINE is set" in found.stdout
    assert found.stdout.endswith("False\n")
