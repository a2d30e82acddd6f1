"""Search space: the settings of adapter and recipe that a search varies, each with the values it may take."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import FiniteFloat, ValidationError

from finsent.config import Config, Section
from finsent.config.loader import explain, merge, read_file
from finsent.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    Distribution = CategoricalDistribution | FloatDistribution | IntDistribution

Value = bool | int | float | str
Space = Mapping[str, "Distribution"]
"""Values by dotted key, e.g. `recipe.learning_rate`; both bounds of a range belong to it."""

_SECTIONS: Final = ("lora", "recipe")
_REFUSED: Final = {
    "recipe.seed": "the best of several seeds is luck and does not last",
    "recipe.evaluate_every_epoch": "a search evaluates after each epoch",
    "recipe.checkpoint_every": "it changes no result",
}
_EXAMPLE: Final = "recipe: {learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}}"
_FORMS: Final = "Give a list of values, or {low: ..., high: ...} with log: true or step: ... where wanted."


class _Range(Section):
    """A range as a file gives it; Optuna checks how its parts fit together."""

    low: FiniteFloat
    high: FiniteFloat
    log: bool = False
    step: FiniteFloat | None = None


def default_space(config: Config) -> Space:
    """A space around the configuration's own values, whose trials cost at most about what its training costs.

    Learning rate from a quarter to four times; rank and alpha half, as they are, and double; epochs from half to all of
    them. Token dropout is varied only where it is used, which is for bases without pre-training. Neither the seed nor the
    batch is varied: one is luck, the other speed and memory.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    lora, recipe = config.lora, config.recipe
    space: dict[str, Distribution] = {
        "recipe.learning_rate": FloatDistribution(recipe.learning_rate / 4, recipe.learning_rate * 4, log=True),
        "recipe.warmup_ratio": FloatDistribution(0.0, max(0.2, recipe.warmup_ratio)),
        "recipe.weight_decay": FloatDistribution(0.0, max(0.1, 2 * recipe.weight_decay)),
        "lora.r": CategoricalDistribution(sorted({max(1, lora.r // 2), lora.r, 2 * lora.r})),
        "lora.alpha": CategoricalDistribution(sorted({max(1, lora.alpha // 2), lora.alpha, 2 * lora.alpha})),
        "lora.dropout": FloatDistribution(0.0, max(0.2, lora.dropout)),
    }
    if recipe.epochs >= 2 and recipe.epochs == int(recipe.epochs):
        space["recipe.epochs"] = FloatDistribution(math.ceil(recipe.epochs / 2), recipe.epochs, step=1.0)
    if recipe.token_dropout > 0:
        space["recipe.token_dropout"] = FloatDistribution(0.0, max(0.3, recipe.token_dropout))
    return space


def read_space(path: Path, config: Config) -> Space:
    """The space that a YAML file lists, sections as in a configuration; nothing besides it is varied.

    Raises:
        ConfigError: no such file, a key that cannot be searched, values that the configuration would refuse, or values
            without the configuration's own, which is the first to be tried.
    """
    where = f"search space {str(path)!r}"
    space = {}
    for section, keys in read_file(path).items():
        if section not in _SECTIONS or not isinstance(keys, Mapping):
            raise ConfigError(
                f"{where}: {section!r} cannot be searched. Name keys of {' and '.join(_SECTIONS)} below their section."
            )
        for name, given in keys.items():
            space[f"{section}.{name}"] = _distribution(section, name, given, where, config)
    if not space:
        raise ConfigError(f"{where} lists nothing to vary. Example: {_EXAMPLE}.")
    for key, own in current_params(config, space).items():
        if not contains(space[key], own):
            raise ConfigError(
                f"{where}: {key} does not hold the configuration's own {own!r}, which is tried first so that the result can only "
                f"be better. Widen it, or set another with --set {key}=..."
            )
    return space


def current_params(config: Config, space: Space) -> dict[str, Value]:
    """The configuration's own values for the keys of the space."""
    dumped = config.model_dump(mode="json")
    return {key: dumped[key.partition(".")[0]][key.partition(".")[2]] for key in space}


def apply_params(config: Config, params: Mapping[str, Value]) -> Config:
    """The configuration with these values by dotted key.

    Raises:
        ConfigError: it refuses one of them.
    """
    changed: dict[str, Any] = {}
    for key, value in params.items():
        section, _, name = key.partition(".")
        changed.setdefault(section, {})[name] = value
    try:
        sections = {
            section: type(getattr(config, section)).model_validate(merge(getattr(config, section).model_dump(), given))
            for section, given in changed.items()
        }
    except ValidationError as error:
        raise ConfigError(explain(error, " and ".join(sorted(changed)))) from error
    return config.model_copy(update=sections)


def contains(values: "Distribution", value: Value) -> bool:
    """Whether the value is one of these; a value between two steps is not."""
    from optuna.distributions import CategoricalDistribution

    if isinstance(values, CategoricalDistribution):
        return value in values.choices
    if isinstance(value, bool | str) or not values.low <= value <= values.high:
        return False
    steps = (value - values.low) / values.step if values.step else 0.0
    return math.isclose(steps, round(steps), abs_tol=1e-9)


def count_settings(space: Space) -> float:
    """How many different settings the space holds; infinity where a range is continuous."""
    from optuna.distributions import CategoricalDistribution

    def count(values: "Distribution") -> float:
        if isinstance(values, CategoricalDistribution):
            return len(set(values.choices))
        return math.inf if values.step is None else round((values.high - values.low) / values.step) + 1

    return math.prod(map(count, space.values()))


def settings_key(space: Space, params: Mapping[str, Value]) -> tuple[Value, ...]:
    """Equal for equal settings: in a range with steps by the number of the step, since 3 * 0.1 is not 0.3."""

    def place(values: "Distribution", value: Value) -> Value:
        step, low = getattr(values, "step", None), getattr(values, "low", 0)
        return round((value - low) / step) if step and not isinstance(value, str) else value

    return tuple(place(values, params[key]) for key, values in sorted(space.items()))


def space_to_dict(space: Space) -> dict[str, Any]:
    """The space in JSON's types."""
    from optuna.distributions import distribution_to_json

    return {key: json.loads(distribution_to_json(values)) for key, values in sorted(space.items())}


def _distribution(section: str, name: str, given: Any, where: str, config: Config) -> "Distribution":
    """Values of one key, checked against the configuration's own rules."""
    from optuna.distributions import CategoricalDistribution

    key, fields = f"{section}.{name}", type(getattr(config, section)).model_fields
    if name not in fields:
        raise ConfigError(f"{where}: unknown key {key!r}. Keys of {section}: {', '.join(fields)}.")
    own = getattr(getattr(config, section), name)
    if key in _REFUSED or not isinstance(own, Value):
        raise ConfigError(f"{where}: {key} cannot be searched: {_REFUSED.get(key, 'it is no single value')}. Leave it out.")
    values: Distribution
    checked: tuple[Value, ...]
    if isinstance(given, Mapping):
        values = _range(key, given, own, where)
        checked = (values.low, values.high)
    elif isinstance(given, list) and given and all(isinstance(value, Value) for value in given):
        values, checked = CategoricalDistribution(given), tuple(given)
    else:
        raise ConfigError(f"{where}: {key} = {given!r} is no set of values. {_FORMS}")
    for value in checked:
        try:
            apply_params(config, {key: value})
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
    return values


def _range(key: str, given: Mapping[str, Any], own: Value, where: str) -> "FloatDistribution | IntDistribution":
    """All values between two bounds, whole numbers for a setting that is one."""
    from optuna.distributions import FloatDistribution, IntDistribution

    if isinstance(own, bool | str):
        raise ConfigError(f"{where}: {key} is no number and has no range. Give a list of values, e.g. [{own!r}].")
    try:
        bounds = _Range.model_validate(given)
        low, high, log, step = bounds.low, bounds.high, bounds.log, bounds.step
        whole = isinstance(own, int) and all(number == int(number) for number in (low, high, step or 1))
        found = (
            IntDistribution(int(low), int(high), log=log, step=int(step or 1))
            if whole
            else FloatDistribution(low, high, log=log, step=step)
        )
    except ValueError as error:  # pydantic's or Optuna's
        details = error.errors() if isinstance(error, ValidationError) else []
        problem = "; ".join(f"{item['loc'][0]}: {item['msg']}" for item in details) or str(error).rstrip(".")
        raise ConfigError(f"{where}: {key} = {dict(given)!r}: {problem}. {_FORMS}") from error
    if isinstance(own, int) and not whole:
        raise ConfigError(f"{where}: {key} takes whole numbers, not {low:g} to {high:g} by {step or 1:g}.")
    if found.single():
        raise ConfigError(f"{where}: {key} = {dict(given)!r} is a single value. {_FORMS}")
    return found
