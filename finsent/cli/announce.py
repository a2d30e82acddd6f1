"""Tell a Prefect server, where one is known, that a person has changed the champion: its triggers start scoring."""

import os

import click

from finsent.cli.discovery import prefect_answers, read_services
from finsent.cli.options import Settings


def promotion(settings: Settings, model: str, version: str, before: str | None) -> None:
    """Emit the promotion event. Without a server there is nobody to tell, which is no error."""
    running = read_services(settings.home().root)
    url = os.environ.get("PREFECT_API_URL") or (running.prefect_api if running else None)
    if url is None:
        return
    if not prefect_answers(url):
        click.echo(f"the Prefect server at {url} does not answer: scoring starts at its next schedule, not now.", err=True)
        return
    os.environ["PREFECT_API_URL"] = url
    from flows.events import emit_promoted

    emit_promoted(model, version, before)
