"""Servers of this machine are asked directly, whatever proxy is set."""

import pytest

from finsent.proxies import bypass_proxies, is_loopback, proxy_of


@pytest.mark.parametrize(
    ("given", "excluded"),
    [
        ({}, None),
        ({"NO_PROXY": "firm"}, "firm"),
        ({"HTTP_PROXY": "http://p:1"}, "127.0.0.1,localhost,::1,db"),
        ({"all_proxy": "http://p:1", "no_proxy": "firm, localhost"}, "firm,localhost,127.0.0.1,::1,db"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "*"}, "*"),
    ],
)
def test_what_the_user_excludes_stays_excluded(given: dict[str, str], excluded: str | None) -> None:
    environ = dict(given)
    for _ in range(2):
        bypass_proxies(environ, "http://db:5000")
    if "PROXY" in "".join(given).replace("NO_PROXY", "").upper():
        assert environ == {**given, "no_proxy": excluded, "NO_PROXY": excluded}
    else:
        assert environ == given


@pytest.mark.parametrize(("url", "own"), [("http://127.0.0.1:1", True), ("http://[::1]:1", True), ("http://mlflow:1", False)])
def test_loopback_addresses(url: str, own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_loopback(url) is own
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy:3128")
    assert proxy_of(url) == (None if own else "http://proxy:3128")
    for given, shown in (("me:secret@proxy:3128", "proxy:3128"), ("http://me:secret@[bad", "http://[bad"), ("proxy", "proxy")):
        monkeypatch.setenv("http_proxy", given)
        assert proxy_of(url) == (None if own else shown)
