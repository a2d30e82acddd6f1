"""The password of a home's servers: made once, for its owner alone, and refused when it may be known or is none."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from finsent.cli.server_password import auth_string, make_password, password_path
from finsent.errors import InputError
from finsent.workspace import Workspace


def test_it_is_made_once_for_its_owner(home: Workspace) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(make_password, [home] * 4))
    made = auth_string(home.root)
    assert re.fullmatch(r"finsent:[A-Za-z0-9_-]{43}", made)
    assert password_path(home.root).stat().st_mode & 0o777 == 0o600
    make_password(home)
    assert auth_string(home.root) == made
    assert not [path.name for path in home.root.iterdir() if path.name.startswith(".")], "no other file holds it"


def test_homes_differ(home: Workspace, tmp_path: Path) -> None:
    other = Workspace(tmp_path / "other", home.tables_url, home.tracking_uri)
    make_password(home)
    make_password(other)
    assert auth_string(home.root) != auth_string(other.root)


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        ("", 0o600, "is empty"),
        ("\n", 0o600, "is empty"),
        ("tooshort\n", 0o600, "holds no password"),
        ("sixteen-or-more-and\nanother line\n", 0o600, "holds no password"),
        ("what:ends@a.user/name", 0o600, "holds no password"),
        ("\x00" * 43, 0o600, "holds no password"),
        ("sixteen-or-more-letters\n", 0o644, "is open to others (mode 644)"),
        ("sixteen-or-more-letters\n", 0o620, "is open to others (mode 620)"),
    ],
)
def test_what_is_no_password_is_named(home: Workspace, content: str, mode: int, said: str) -> None:
    path = password_path(home.root)
    path.parent.mkdir()
    path.write_text(content, encoding="utf-8")
    path.chmod(mode)
    for ask in (lambda: auth_string(home.root), lambda: make_password(home)):
        with pytest.raises(InputError, match=re.escape(said)) as caught:
            ask()
        assert str(path) in str(caught.value)
        assert "Delete it and start `finsent up` again" in str(caught.value)
        assert "sixteen" not in str(caught.value), "not even a wrong one is shown"


def test_one_that_is_missing_is_named(home: Workspace) -> None:
    with pytest.raises(InputError, match=r"server_password'\. Start `finsent up` again"):
        auth_string(home.root)


def test_the_group_of_a_shared_home_may_read_it(home: Workspace) -> None:
    make_password(home)
    password_path(home.root).chmod(0o640)
    assert auth_string(home.root).startswith("finsent:")
