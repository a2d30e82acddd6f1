"""The study of a search, without training anything."""

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from finsent.config import Config
from finsent.errors import InputError
from finsent.tuning import search as studies
from finsent.tuning.space import Space, current_params, default_space
from finsent.workspace import Workspace

IDENTITY = {"data": "d", "settings": "s", "space": "p"}


def losses(search: optuna.Study, values: list[float], at: int) -> None:
    """Complete trials with a report at an eighth of the training each."""
    for value in values:
        trial = search.ask()
        trial.report(value, at)
        studies.finish_trial(search, trial, studies.TrialRecord(trial.number, "complete", value, {}))


def test_a_trial_left_running_is_queued_again_and_given_up_after_three_kills(tiny_config: Config, home: Workspace) -> None:
    space = default_space(tiny_config)
    own = current_params(tiny_config, space)
    for kills in range(3):
        with studies.open_study(home, "s", IDENTITY, own) as search:
            assert studies.count_states(studies.finished_trials(search)) == {"complete": 0, "pruned": 0, "failed": 0}
            trial = studies.next_trial(search, space, 1)  # and here the process is gone
            assert trial.params == own
            assert trial.user_attrs[studies.NUMBER] == 0
            assert trial.number == kills
    with studies.open_study(home, "s", IDENTITY, own) as search:
        assert studies.finished_trials(search) == (
            studies.TrialRecord(0, "failed", None, own, reason="its process was killed 3 times"),
        )
        fresh = studies.next_trial(search, space, 1)
        assert fresh.user_attrs[studies.NUMBER] == 1
        assert fresh.params != own


def test_interrupts_are_not_counted_as_kills(tiny_config: Config, home: Workspace) -> None:
    space = default_space(tiny_config)
    with studies.open_study(home, "s", IDENTITY, current_params(tiny_config, space)) as search:
        for _ in range(4):
            trial = studies.next_trial(search, space, 1)
            studies.requeue_trial(search, trial.number, killed=False)
        assert studies.finished_trials(search) == ()


def test_proposals_do_not_depend_on_interruptions(tiny_config: Config, home: Workspace) -> None:
    space = {key: values for key, values in default_space(tiny_config).items() if key in {"lora.dropout", "lora.r"}}
    own = current_params(tiny_config, space)

    def proposed(name: str, *, cut: tuple[int, ...]) -> list[object]:
        found: list[object] = []
        while len(found) < 8:
            with studies.open_study(home, name, IDENTITY, own) as search:
                while len(found) < 8:
                    trial = studies.next_trial(search, space, 2**32 - 1)
                    if len(found) in cut and studies._KILLS not in trial.user_attrs:
                        break  # left running, as by a kill
                    found.append(dict(trial.params))
                    value = float(trial.params["lora.dropout"])
                    studies.finish_trial(search, trial, studies.TrialRecord(len(found) - 1, "complete", value, trial.params))
        return found

    assert proposed("whole", cut=()) == proposed("cut", cut=(1, 6))


def test_a_trial_killed_while_it_was_drawn_is_drawn_as_before(tiny_config: Config, home: Workspace) -> None:
    space = default_space(tiny_config)
    own = current_params(tiny_config, space)
    with studies.open_study(home, "s", IDENTITY, own) as search:
        search.ask({"lora.r": space["lora.r"]})  # the others, and its number, are not there yet
    with studies.open_study(home, "s", IDENTITY, own) as search:
        trial = studies.next_trial(search, space, 1)
        assert (trial.params, trial.user_attrs[studies.NUMBER]) == (own, 0)


def test_a_retry_goes_on_with_the_losses_of_the_attempt_that_was_killed(home: Workspace) -> None:
    space: Space = {"lora.r": optuna.distributions.CategoricalDistribution([4])}
    with studies.open_study(home, "s", IDENTITY, {}) as search:
        losses(search, [0.7, 0.7, 0.7], at=4)
        trial = studies.next_trial(search, space, 1)
        assert not studies.should_prune(trial, 1 / 3, 1.0)  # between two eighths
    with studies.open_study(home, "s", IDENTITY, {}) as search:
        retry = studies.next_trial(search, space, 1)
        assert not studies.should_prune(retry, 1 / 3, 1.0), "evaluated again after its last checkpoint"
        assert studies.should_prune(retry, 2 / 3, 0.8)
        assert search.trials[retry.number].intermediate_values[4] == pytest.approx(0.9)
    with studies.open_study(home, "s", IDENTITY, {}) as search:
        retry = studies.next_trial(search, space, 1)
        assert set(search.trials[retry.number].intermediate_values) == {3, 4, 5}
        assert studies.should_prune(retry, 2 / 3, 0.8), "killed between the decision and its record"


def test_nobody_else_works_at_a_study_that_is_open(home: Workspace) -> None:
    with studies.open_study(home, "s", IDENTITY, {"recipe.epochs": 1.0}):
        code = (
            "import sys\nfrom finsent.workspace import resolve_workspace\nfrom finsent.tuning import search\n"
            "with search.open_study(resolve_workspace({'FINSENT_HOME': sys.argv[1]}), 's', {}, {}): pass"
        )
        done = subprocess.run([sys.executable, "-c", code, str(home.root)], capture_output=True, text=True, check=False)
        assert "another process works at study 's'" in done.stderr


@pytest.mark.parametrize("name", ["", "../up", "a b", "-x"])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="--study"):
        studies.study_name(name, IDENTITY)


def test_a_new_study_says_what_changed(home: Workspace) -> None:
    first = studies.study_name("night", IDENTITY)
    changed = {**IDENTITY, "data": "e", "space": "q"}
    second = studies.study_name("night", changed)
    assert first != second
    assert studies.changed_since(home, "night", first, IDENTITY) is None
    with studies.open_study(home, first, IDENTITY, {"recipe.epochs": 1.0}):
        pass
    assert studies.changed_since(home, "night", first, IDENTITY) is None, "it is that study"
    assert studies.changed_since(home, "night", second, changed) == (first, ["data", "space"])
    assert studies.changed_since(home, "day", studies.study_name("day", changed), changed) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"data"'])
def test_a_damaged_record_of_another_study_stops_no_search(home: Workspace, text: str) -> None:
    first = studies.study_name("night", IDENTITY)
    with studies.open_study(home, first, IDENTITY, {}):
        pass
    (studies.study_dir(home, first) / "study.json").write_text(text, encoding="utf-8")
    changed = {**IDENTITY, "data": "e"}
    found = studies.changed_since(home, "night", studies.study_name("night", changed), changed)
    assert found in (None, (first, list(changed)))


def test_a_damaged_file_of_trials_says_what_to_do_and_an_empty_one_starts_anew(home: Workspace) -> None:
    database = studies.study_dir(home, "s") / "study.db"
    database.parent.mkdir(parents=True)
    database.write_bytes(b"no database at all, and long enough for a header of one " * 40)
    with (
        pytest.raises(InputError, match=r"study 's' in .*study\.db' cannot be read: .*--study"),
        studies.open_study(home, "s", IDENTITY, {}),
    ):
        pass
    database.write_bytes(b"")
    with studies.open_study(home, "s", IDENTITY, {}) as search:
        assert studies.finished_trials(search) == ()


def test_identity_follows_data_settings_and_space_and_nothing_else(tiny_config: Config) -> None:
    space = default_space(tiny_config)
    base = studies.study_identity(tiny_config, space, "f")
    other_gate = tiny_config.model_copy(update={"gate": tiny_config.gate.model_copy(update={"alpha": 0.1})})
    assert studies.study_identity(other_gate, space, "f") == base
    assert studies.study_identity(tiny_config, space, "g") != base
    assert (
        len({json.dumps(studies.study_identity(tiny_config, space, "f", base=weights)) for weights in (None, "v2:a", "v2:b")})
        == 3
    )
    assert studies.study_identity(tiny_config, {"lora.r": optuna.distributions.CategoricalDistribution([4, 8])}, "f") != base


def test_a_trial_is_pruned_at_equal_shares_of_the_training_and_between_evaluations() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_min_trials=3))
    losses(search, [0.5, 0.6], at=4)
    slow = search.ask()
    assert not studies.should_prune(slow, 0.5, 9.0), "two others prove nothing"
    search.tell(slow, 0.9)
    losses(search, [0.7], at=4)
    third = search.ask()  # of three epochs: a half lies between its evaluations
    assert not studies.should_prune(third, 1 / 3, 1.0)
    assert studies.should_prune(third, 2 / 3, 0.8)
    seen = search.trials[third.number].intermediate_values
    assert seen[4] == pytest.approx(0.9)
    assert set(seen) == {3, 4, 5}
    good = search.ask()
    assert not studies.should_prune(good, 0.5, 0.4)
    assert not studies.should_prune(good, 1.0, 9.0), "one that is through is scored"


def test_the_folder_is_of_the_home(home: Workspace) -> None:
    assert studies.study_dir(home, "nano-1") == Path(home.root / "tune" / "nano-1")
