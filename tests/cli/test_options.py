"""What every command shares."""

from pathlib import Path

import click

from finsent.cli.options import Settings, suggest_command


def test_what_to_type_next_repeats_where_and_under_which_configuration() -> None:
    with click.Context(click.Command("x"), obj=Settings(overrides=("gate.alpha=0.1",), home_dir=Path("my home"))).scope():
        assert suggest_command("finsent promote") == "finsent promote --set gate.alpha=0.1 --home 'my home'"
        assert (
            suggest_command("finsent train --config best.yaml", configuration=False)
            == "finsent train --config best.yaml --home 'my home'"
        )
    assert suggest_command("finsent promote") == "finsent promote"
