"""finsent: keeps a financial-tweet sentiment model alive in production."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("finsent")
except PackageNotFoundError:  # shipped as code beside a registered model, not installed
    __version__ = "0.0.0+uninstalled"
