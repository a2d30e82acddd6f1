"""Program that makes version 1 champion: `python champion.py CONFIG HOME`.

It is trained briefly and adopted by a person, without the gate, so that the trainings of the month find a champion to beat.
"""

import sys
from pathlib import Path

from finsent.config import load_config
from finsent.registry.tracking import connect
from finsent.steps import promote
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.steps.train import train
from finsent.workspace import resolve_workspace


def main(config_file: str, home: str) -> None:
    """Ingest, train, adopt."""
    workspace = resolve_workspace({"FINSENT_HOME": home})
    context = make_context(load_config("nano", Path(config_file), ["recipe.epochs=1"]), workspace)
    ingest(context)
    trained = train(context)
    connect(workspace).set_registered_model_alias(context.config.registered_model, "champion", trained.model_version)
    adopted = promote.adopt(context, "month.py", "the first version, to be beaten")
    if adopted.champion_after != trained.model_version:
        raise SystemExit(f"version {trained.model_version} is not champion: {adopted}")


if __name__ == "__main__":
    main(*sys.argv[1:])
