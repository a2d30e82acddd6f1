"""A retraining that ended between registration and decision is finished by the next; one that cannot be blocks nothing."""

from typing import TYPE_CHECKING, Any

import pytest

from finsent.errors import CheckFailed
from finsent.steps.context import make_context
from tests.integration.flow_runs import setup_of

if TYPE_CHECKING:
    from tests.conftest import Served

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.usefixtures("prefect")]


def test_a_retraining_that_died_after_registration_goes_on_with_its_version(
    served: "Served", monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import retrain as module

    def died(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "evaluate", died)
        with pytest.raises(KeyboardInterrupt):
            module.retrain(settings=setup_of(served))
    registered = make_context(served.config, served.home).registry.latest_version()
    result = module.retrain(only_if_due=True, settings=setup_of(served))
    assert isinstance(result, module.RetrainResult)
    assert result.training is None
    assert result.promotion.model_version == registered
    retrain = module.retrain
    state = retrain(only_if_due=True, settings=setup_of(served), return_state=True)
    assert state.name == "Skipped", "decided now, so there is nothing to go on with"


@pytest.mark.usefixtures("proof_in_process")
def test_a_version_whose_evaluation_always_fails_does_not_block_retraining(
    served: "Served", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from finsent.monitoring.retrain_inputs import MAX_FINISH_ATTEMPTS
    from flows import retrain as module

    registry = make_context(served.config, served.home).registry
    settings = setup_of(served).model_copy(update={"overrides": (*setup_of(served).overrides, "recipe.seed=78")})
    evaluated: list[str] = []

    def failing(version: str, **_: Any) -> None:
        evaluated.append(version)
        raise CheckFailed("a new process cannot load it")

    with monkeypatch.context() as patch:
        patch.setattr(module, "evaluate", failing)
        for _ in range(1 + MAX_FINISH_ATTEMPTS):  # the training itself, then the attempts to finish it
            with pytest.raises(CheckFailed):
                module.retrain(settings=settings)
    broken = registry.latest_version()
    assert evaluated == [broken] * (1 + MAX_FINISH_ATTEMPTS)
    result = module.retrain(settings=settings)
    assert isinstance(result, module.RetrainResult)
    assert result.training is not None
    assert result.promotion.model_version == registry.latest_version() != broken
    assert f"version {broken} of finsent is still undecided" in caplog.text
