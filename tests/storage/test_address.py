"""Wrong URLs are refused with the way out; passwords are never shown."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import StorageError, mask_url, open_storage, own_study, owners_of
from storage.address import ModalAddress, parse_url, shown_url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "is empty"),
        ("hpo.db", "sqlite:///hpo.db"),
        ("./journal.log", "is not a URL"),
        ("sqlite:hpo.db", "lacks '://'"),
        ("sqlite://hpo.db", "three"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///file:x.db", "file: URI"),
        ("sqlite:///x.db?timeout=3", "options are not taken"),
        ("sqlite:///~/x.db", "not expanded"),
        ("sqlite+aiosqlite:///x.db", "driver"),
        ("sqlite:///a\nb.db", "line break"),
        ("mysql://u:secret@h/db", "MySQL"),
        ("mongodb://u:secret@h/db", "MongoDB"),
        ("redis://:secret@h", "Redis"),
        ("journal:///x.log", "journal"),
        ("modal://hpo-studies/pairs.db", "run its study with --coordinator modal"),
        ("modal://hpo-studies/pairs.db", "hpo best --storage modal://hpo-studies/pairs.db"),
        ("modal://x", "modal://VOLUME/FILE.db"),
        ("modal://x/", "modal://VOLUME/FILE.db"),
        ("modal:///x.db", "modal://VOLUME/FILE.db"),
        ("modal://x/y", "modal://VOLUME/FILE.db"),
        ("modal://x/../y.db", "modal://VOLUME/FILE.db"),
        ("modal://u:secret@x/y.db", "modal://VOLUME/FILE.db"),
        ("oracle://u:secret@h/db", "'oracle' is not a kind"),
        ("postgresql:/u:secret@h/db", "lacks '://'"),
        ("u:secret@h/db", "is not a URL"),
        ("host=h password=secret dbname=x", "list of options"),
        ("postgresql://u:secret@h", "names no database"),
        ("postgresql://u:secret@h/", "names no database"),
        ("postgresql+asyncpg://u:secret@h/db", "only psycopg2"),
        ("postgresql://u:se@cret@h/db", "%40"),
        ("postgresql://u:se/secret@h/db", "%2F"),
        ("postgresql://u:secret@h:port/db", "no valid port"),
        ("postgresql://u:secret@h:70000/db", "no valid port"),
        ("postgresql://u:secret", "no valid port"),
    ],
)
def test_wrong_urls_are_refused(url: str, said: str) -> None:
    for action in (
        lambda: open_storage(url),
        lambda: own_study(url, "s"),
        lambda: owners_of(url, ["s"]),
    ):
        with pytest.raises(StorageError) as caught:
            action()
        assert said in str(caught.value)
        assert "secret" not in str(caught.value)
        assert "cret" not in str(caught.value)


def test_a_url_must_be_text() -> None:
    with pytest.raises(StorageError, match="not as a NoneType"):
        open_storage(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://u:pw@h:5432/db", "postgresql://u:***@h:5432/db"),
        ("postgresql://u@h/db", "postgresql://u@h/db"),
        ("postgresql://h:5432/db", "postgresql://h:5432/db"),
        ("postgresql://[::1]:5432/db", "postgresql://[::1]:5432/db"),
        ("postgresql:///db?user=u&password=pw&x=1", "postgresql:///db?user=u&password=***&x=1"),
        ("sqlite:///a@b.db", "sqlite:///a@b.db"),
        ("modal://hpo-studies/pairs.db", "modal://hpo-studies/pairs.db"),
    ],
)
def test_masking(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_a_snapshot_on_modal_has_an_address() -> None:
    address = parse_url(" modal://hpo-studies/pairs-1.db ")
    assert address == ModalAddress("hpo-studies", "pairs-1.db")
    assert shown_url(address) == "modal://hpo-studies/pairs-1.db"


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=4, max_size=20))
def test_no_password_is_ever_shown(password: str) -> None:
    url = f"postgresql://someone:Q{password}Q@h/db"
    assert mask_url(url) == "postgresql://someone:***@h/db" or f"Q{password}Q" not in mask_url(url)


def test_importing_is_cheap() -> None:
    code = (
        "import sys, storage; "
        "print([m for m in ('optuna', 'sqlalchemy', 'psycopg2', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
