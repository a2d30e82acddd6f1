"""How a process tells the MLflow server of its home's `finsent up` from any other: by address, password and token.

The first two are in one variable, so that the password goes to no other address; the token proves whose server answers there.
"""

import os
from typing import Final
from urllib.parse import urlsplit

from finsent.registry.mlflow_errors import public_uri

LOGIN_VARIABLE: Final = "FINSENT_MLFLOW_LOGIN"
"""Environment variable with the server's address, and user name and password for it, as one URL."""
TOKEN_VARIABLE: Final = "FINSENT_HOME_TOKEN"  # noqa: S105 - a name
"""Environment variable with the token of a `finsent up`, for its workers."""
TOKEN_TAG: Final = "finsent.home"  # noqa: S105 - a name
"""Tag of an experiment by which an MLflow server shows whose it is."""


def with_login(url: str, auth: str) -> str:
    """The URL with `user:password` in it, as `LOGIN_VARIABLE` holds it."""
    return url.replace("://", f"://{auth}@", 1)


def sign_in(uri: str) -> bool:
    """Whether it is the home's own server. Its password is in the environment, for MLflow's client, as long as it is asked."""
    named = os.environ.get(LOGIN_VARIABLE, "")
    login = urlsplit(named)
    own = {"MLFLOW_TRACKING_USERNAME": login.username or "", "MLFLOW_TRACKING_PASSWORD": login.password or ""}
    if named and public_uri(named) == uri.rstrip("/"):
        os.environ.update(own)
        return True
    if login.password and os.environ.get("MLFLOW_TRACKING_PASSWORD") == login.password:
        for name in own:
            os.environ.pop(name, None)
    return False


def token_filter(token: str) -> str:
    """The filter string that finds the experiment with this token."""
    return f"tags.`{TOKEN_TAG}` = '{token}'"
