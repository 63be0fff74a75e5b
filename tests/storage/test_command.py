"""``python -m storage``: a database made ready, or a reason why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import inspect

from storage import open_storage
from storage.__main__ import main


def test_it_makes_tables_and_views(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPO_STORAGE", url)
    assert main([]) == 0
    assert main([url]) == 0
    found = inspect(open_storage(url).engine)
    assert "trials" in found.get_table_names()
    assert {"hpo_trials", "hpo_best"} <= set(found.get_view_names())


def test_it_says_what_it_cannot_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"sqlite:///{tmp_path}/nowhere/hpo.db"]) == 2
    assert capsys.readouterr().err.startswith("storage: The SQLite file")
    monkeypatch.delenv("HPO_STORAGE", raising=False)
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "HPO_STORAGE" in capsys.readouterr().err
