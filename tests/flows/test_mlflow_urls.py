from finsent.workspace import resolve_workspace
from flows import links


def test_no_page_or_command_shows_a_password() -> None:
    for uri in ("http://ada:s3cret@mlflow.example:5000", "postgresql://ada:s3cret@db.example/mlflow"):
        home = resolve_workspace({"FINSENT_HOME": "h", "MLFLOW_TRACKING_URI": uri})
        shown = f"{links.version_page(home, 'finsent', '3')} {links.how_to_open(home)}"
        assert "s3cret" not in shown
        assert "ada" not in shown
        assert ".example" in shown
