"""The tree of errors: what is caught as what, by callers and by the command line."""

import inspect

import pytest

from finsent import errors
from finsent.errors import FinsentError

TREE = {
    "FinsentError": (Exception,),
    "ConfigError": (FinsentError, ValueError),
    "InputError": (FinsentError, ValueError),
    "TrackingError": (errors.InputError,),
    "UnclearSourceError": (errors.InputError,),
    "BaseModelError": (FinsentError,),
    "NoChampionError": (FinsentError, LookupError),
    "ServiceError": (FinsentError, ConnectionError),
    "DeviceError": (FinsentError, RuntimeError),
    "CheckFailed": (FinsentError,),
    "ArtifactError": (errors.CheckFailed,),
}


@pytest.mark.parametrize("name", TREE)
def test_every_error_keeps_its_place(name: str) -> None:
    assert getattr(errors, name).__bases__ == TREE[name]


def test_there_is_no_error_beside_the_tree() -> None:
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert defined == set(TREE)


def test_messages_come_through_unchanged() -> None:
    assert str(errors.InputError("no file 'x.csv'. Check the path.")) == "no file 'x.csv'. Check the path."


def test_a_foreign_error_ends_without_its_full_stop_on_one_line() -> None:
    assert errors.one_line(ValueError("first\n  second. ")) == "first second"
    assert errors.one_line(TimeoutError()) == "TimeoutError"
    assert len(errors.one_line(ValueError("x" * 5000))) == 600


def test_module_docstring_names_every_error() -> None:
    assert all(name in str(errors.__doc__) for name in TREE)
