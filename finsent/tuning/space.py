"""What a hyper-parameter search varies: settings of the adapter and the recipe, each with the values that it may take."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from pydantic import Field, ValidationError, model_validator

from finsent.config import Config, Section
from finsent.config_files import explain, merge, read_file
from finsent.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = bool | int | float | str
_SECTIONS: Final = ("lora", "recipe")
_REFUSED: Final = {
    "recipe.seed": "the best of several seeds is luck and does not last",
    "recipe.evaluate_every_epoch": "a search looks after each epoch",
    "recipe.checkpoint_every": "it changes no result",
}
_EXAMPLE: Final = "recipe: {learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}}"
_HOW: Final = "Give a list of values, or {low: ..., high: ...} with log: true or step: ... where wanted."


class ValueRange(Section):
    """All values between two bounds, which belong to it."""

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Draw evenly in the logarithm."""
    step: float | None = Field(default=None, gt=0.0)
    """Distance of one value to the next; left out, any value."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"log: true needs a low above 0, not {self.low:g}")
        if self.log and self.step is not None:
            raise ValueError("log: true and step exclude each other")
        return self


Space = Mapping[str, ValueRange | tuple[Value, ...]]
"""Values by dotted key, e.g. `recipe.learning_rate`."""


def default_space(config: Config) -> Space:
    """A space around the configuration's own values, whose trials cost at most about what its training costs.

    Learning rate from a quarter to four times; rank and alpha half, as they are, and double; epochs from half to all of
    them. Token dropout is varied only where it is used, which is for bases without pre-training. Neither the seed nor the
    batch is varied: one is luck, the other speed and memory.
    """
    lora, recipe = config.lora, config.recipe
    space: dict[str, ValueRange | tuple[Value, ...]] = {
        "recipe.learning_rate": ValueRange(low=recipe.learning_rate / 4, high=recipe.learning_rate * 4, log=True),
        "recipe.warmup_ratio": ValueRange(low=0.0, high=max(0.2, recipe.warmup_ratio)),
        "recipe.weight_decay": ValueRange(low=0.0, high=max(0.1, 2 * recipe.weight_decay)),
        "lora.r": _around(lora.r),
        "lora.alpha": _around(lora.alpha),
        "lora.dropout": ValueRange(low=0.0, high=max(0.2, lora.dropout)),
    }
    if recipe.epochs >= 2 and recipe.epochs == int(recipe.epochs):
        space["recipe.epochs"] = ValueRange(low=math.ceil(recipe.epochs / 2), high=recipe.epochs, step=1.0)
    if recipe.token_dropout > 0:
        space["recipe.token_dropout"] = ValueRange(low=0.0, high=max(0.3, recipe.token_dropout))
    return space


def read_space(path: Path, config: Config) -> Space:
    """The space that a YAML file lists, sections as in a configuration; nothing besides it is varied.

    Raises:
        ConfigError: no such file, a key that cannot be searched, values that the configuration would refuse, or values
            without the configuration's own, which is the first to be tried.
    """
    where = f"search space {str(path)!r}"
    space = {key: _values(key, given, where, config) for key, given in _leaves(read_file(path), where)}
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
    """What the configuration itself has for the keys of the space."""
    dumped = config.model_dump(mode="json")
    return {key: dumped[key.partition(".")[0]][key.partition(".")[2]] for key in space}


def apply_params(config: Config, values: Mapping[str, Value]) -> Config:
    """The configuration with these values by dotted key.

    Raises:
        ConfigError: it refuses one of them.
    """
    changed: dict[str, Any] = {}
    for key, value in values.items():
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


def contains(values: ValueRange | Sequence[Value], value: Value) -> bool:
    """Whether the value is one of these; a value between two steps is not."""
    if not isinstance(values, ValueRange):
        return value in values
    if isinstance(value, bool | str) or not values.low <= value <= values.high:
        return False
    steps = 0.0 if values.step is None else (value - values.low) / values.step
    return math.isclose(steps, round(steps), abs_tol=1e-9)


def space_to_dict(space: Space) -> dict[str, Any]:
    """The space in JSON's types."""
    return {key: values.model_dump() if isinstance(values, ValueRange) else list(values) for key, values in sorted(space.items())}


def distributions(space: Space, config: Config) -> "dict[str, BaseDistribution]":
    """The space in Optuna's terms."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    made: dict[str, BaseDistribution] = {}
    for key, own in current_params(config, space).items():
        values = space[key]
        if not isinstance(values, ValueRange):
            made[key] = CategoricalDistribution(values)
        elif isinstance(own, int):
            made[key] = IntDistribution(int(values.low), int(values.high), log=values.log, step=int(values.step or 1))
        else:
            made[key] = FloatDistribution(values.low, values.high, log=values.log, step=values.step)
    return made


def _around(value: int) -> tuple[Value, ...]:
    return tuple(sorted({max(1, value // 2), value, 2 * value}))


def _leaves(tree: Mapping[str, Any], where: str) -> list[tuple[str, Any]]:
    found = []
    for section, keys in tree.items():
        if section not in _SECTIONS or not isinstance(keys, Mapping):
            raise ConfigError(
                f"{where}: {section!r} cannot be searched. Name keys of {' and '.join(_SECTIONS)} below their section."
            )
        found += [(f"{section}.{name}", given) for name, given in keys.items()]
    return found


def _values(key: str, given: Any, where: str, config: Config) -> ValueRange | tuple[Value, ...]:
    """Check one key and its values against the configuration's own rules."""
    section, _, name = key.partition(".")
    fields = type(getattr(config, section)).model_fields
    if name not in fields:
        raise ConfigError(f"{where}: unknown key {key!r}. Keys of {section}: {', '.join(fields)}.")
    own = getattr(getattr(config, section), name)
    if key in _REFUSED or not isinstance(own, Value):
        raise ConfigError(f"{where}: {key} cannot be searched: {_REFUSED.get(key, 'it is no single value')}. Leave it out.")
    if isinstance(given, Mapping):
        try:
            interval = ValueRange.model_validate(given)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'it'}: {item['msg']}" for item in error.errors())
            raise ConfigError(f"{where}: {key} = {dict(given)!r}: {problems}. {_HOW}") from error
        values: ValueRange | tuple[Value, ...] = interval
        ends = _ends(key, interval, own, where)
    elif isinstance(given, list) and given and all(isinstance(value, Value) for value in given):
        values, ends = tuple(given), tuple(given)
    else:
        raise ConfigError(f"{where}: {key} = {given!r} is no set of values. {_HOW}")
    for value in ends:
        try:
            apply_params(config, {key: value})
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
    return values


def _ends(key: str, values: ValueRange, own: Value, where: str) -> tuple[Value, ...]:
    """Bounds of an interval, of the setting's own type."""
    if isinstance(own, bool | str):
        raise ConfigError(f"{where}: {key} is no number and has no interval. Give a list of values, e.g. [{own!r}].")
    if isinstance(own, float):
        return values.low, values.high
    if any(number != int(number) for number in (values.low, values.high, values.step or 1)):
        raise ConfigError(f"{where}: {key} takes whole numbers, not {values.low:g} to {values.high:g} by {values.step or 1:g}.")
    return int(values.low), int(values.high)
