"""Tell a Prefect server, where one is known, what a person has done: its triggers start scoring, or ask for approval."""

import os

import click

from finsent.cli.discovery import prefect_answers, read_services
from finsent.cli.options import Settings


def promotion(settings: Settings, model: str, version: str, before: str | None) -> None:
    """Emit the promotion event. Without a server there is nobody to tell, which is no error."""
    if _server(settings, "scoring starts at its next schedule, not now"):
        from flows.events import emit_promoted

        emit_promoted(model, version, before)


def approval_request(settings: Settings, model: str, version: str, champion: str | None, reasons: tuple[str, ...]) -> None:
    """Emit the request for approval: a server shows a form. Without one there is the command line."""
    if _server(settings, "it shows no form; `finsent approve` does as well"):
        from flows.events import emit_approval_requested

        emit_approval_requested(model, version, champion, list(reasons))


def _server(settings: Settings, otherwise: str) -> bool:
    """Whether a server is known and answers; events then go there."""
    running = read_services(settings.home().root)
    url = os.environ.get("PREFECT_API_URL") or (running.prefect_api if running else None)
    if url is None:
        return False
    if not prefect_answers(url):
        click.echo(f"the Prefect server at {url} does not answer: {otherwise}.", err=True)
        return False
    os.environ["PREFECT_API_URL"] = url
    return True
