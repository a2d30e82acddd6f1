"""Everything finsent raises on purpose.

    FinsentError
    ├── ConfigError          a profile or configuration value is wrong (ValueError)
    ├── InputError           a file, column, label or argument is wrong (ValueError)
    ├── BaseModelError       the base model cannot be reached or is not what was asked for
    ├── NoChampionError      no version carries the alias `champion` yet (LookupError)
    ├── ServiceError         the MLflow or Prefect server does not answer (ConnectionError)
    ├── DeviceError          a device, or the process that works on it, failed or died (RuntimeError)
    └── CheckFailed          a check or gate said no
        └── ArtifactError    an adapter does not match its manifest

Messages say what was wrong (the value quoted), where (file, row, configuration key) and what to do.
The command line alone turns them into exit codes: `CheckFailed` 1, all others 2.
"""


class FinsentError(Exception):
    """Root of the tree."""


class ConfigError(FinsentError, ValueError):
    """A profile or configuration value is wrong."""


class InputError(FinsentError, ValueError):
    """A file, column, label or argument is wrong."""


class BaseModelError(FinsentError):
    """The base model cannot be reached or is not what was asked for."""


class NoChampionError(FinsentError, LookupError):
    """No version carries the alias `champion` yet."""


class ServiceError(FinsentError, ConnectionError):
    """The MLflow or Prefect server does not answer."""


class DeviceError(FinsentError, RuntimeError):
    """A device, or the process that works on it, failed or died."""


class CheckFailed(FinsentError):  # noqa: N818 - a refusal is an outcome, its name is the domain's
    """A check or gate said no."""


class ArtifactError(CheckFailed):
    """An adapter does not match its manifest."""
