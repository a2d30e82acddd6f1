"""The verdict of `finsent status` over all parts; what Prefect's server says is judged in test_verdict.py."""

from typing import Any

import pytest

from finsent.cli.status import list_problems

FINE: dict[str, Any] = {"url": "http://m:5000", "answers": True}
AWAY = {"url": "http://m:5000", "answers": False, "problem": "does not answer"}


@pytest.mark.parametrize(
    ("changed", "problems"),
    [
        ({}, []),
        ({"services": {"mlflow": {"url": None, "answers": None}}}, []),
        ({"services": {"mlflow": AWAY}}, ["the MLflow server at http://m:5000 does not answer"]),
        ({"services": {"mlflow": AWAY}, "versions": {"error": "no versions"}}, ["no versions"]),
        ({"versions": {"error": "no versions"}, "decisions": {"error": "damaged"}}, ["damaged", "no versions"]),
        ({"versions": {"error": "same"}, "decisions": {"error": "same"}}, ["same"]),
        ({"champion_problem": "by hand", "operations": {"problems": ["stuck"]}}, ["by hand", "stuck"]),
        ({"operations": {"problems": []}}, []),
    ],
)
def test_whatever_is_wrong_is_in_the_verdict(changed: dict[str, Any], problems: list[str]) -> None:
    fine = {"services": {"mlflow": FINE}, "versions": {}, "decisions": {}, "champion_problem": None, "operations": None}
    assert list_problems(**{**fine, **changed}) == problems
