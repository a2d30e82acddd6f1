"""What the Hub answers, as messages that say what to do. The Hub is a local server that answers as it does."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from finsent.errors import BaseModelError, InputError
from finsent.models.base import fetch_from_hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, str], None]]:
    """`hub(status, code)`: what the server answers to everything from now on, its error code in the Hub's header."""
    answer: list[tuple[int, str]] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, code = answer[-1]
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 - http.server's name

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name, value in (
        ("HF_HUB_OFFLINE", False),
        ("ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}"),
        ("HF_HUB_CACHE", str(tmp_path / "cache")),
    ):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", f"http://127.0.0.1:{server.server_address[1]}")
    yield lambda status, code: answer.append((status, code))
    server.shutdown()
    thread.join()
    server.server_close()


def get(name: str, revision: str | None = None, error: type[InputError | BaseModelError] = InputError) -> tuple[Path, str | None]:
    return fetch_from_hub(name, revision, ["*.json"], what="adapter", correct="--revision", instead="give a folder", error=error)


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "GatedRepo", r"adapter 'owner/name' is gated\. Accept its licence on its Hub page and set HF_TOKEN"),
        (401, "RepoNotFound", r"'owner/name' is not on the Hub \(or private: set HF_TOKEN\), nor a local folder"),
        (404, "RepoNotFound", r"'owner/name' is not on the Hub"),
        (404, "RevisionNotFound", r"'owner/name' has no revision 'v9'\. Correct --revision"),
        (418, "", r"cannot be reached \(\w+\) and is not in the local cache\. Connect to the Hub, or give a folder"),
    ],
)
def test_each_answer_says_what_to_do(hub: Callable[[int, str], None], status: int, code: str, said: str) -> None:
    hub(status, code)
    with pytest.raises(InputError, match=said):
        get("owner/name", "v9")
    with pytest.raises(BaseModelError, match=said):
        get("owner/name", "v9", BaseModelError)


def test_a_name_that_is_no_hub_id_is_said_without_asking() -> None:
    with pytest.raises(InputError, match="neither a folder here nor a valid Hub id"):
        get("a/b/c")
