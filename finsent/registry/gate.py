"""The promotion gate: evidence and rules in, a decision with reasons out. Pure, and closed unless everything is shown.

Every rule is listed in the decision, passed or not. Evidence that is absent or not a finite number fails its rule, and
`evidence_complete` names it besides. A challenger is not promoted for a higher score, which two equal models reach half
of the time, but for winning an exact paired test on the same rows (docs/adr/0003-gate-rules-and-paired-tests.md).
"""

import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import ValidationError

from finsent.config import GateConfig
from finsent.evaluation.evidence import Evidence
from finsent.labels import LABELS

Value = float | str | bool | None
Status = Literal["pass", "fail", "missing"]

_RELATIONS: Final = {
    "at least": operator.ge,
    "at most": operator.le,
    "above": operator.gt,
    "below": operator.lt,
    "exactly": operator.eq,
}

_FOR_PEOPLE: Final = {"naive_split", "scored_with"}  # no rule rests on these, and they need not be there


@dataclass(frozen=True)
class RuleResult:
    """One rule's outcome."""

    name: str
    value: Value
    """What the evidence says; None where it says nothing, or no finite number."""
    threshold: Value
    """What it was held against."""
    status: Status
    """`missing` counts as failed."""
    reason: str
    """One sentence for a person."""


@dataclass(frozen=True)
class Decision:
    """What the gate says, and why."""

    decision: Literal["promote", "refuse"]
    rules: tuple[RuleResult, ...]
    """Every rule, in order."""
    reasons: tuple[str, ...]
    """Why not, a sentence for each rule that did not pass; or what the promotion rests on."""


def decide(evidence: Evidence, rules: GateConfig, current_champion: str | None) -> Decision:
    """Whether the version that `evidence` is about may take the place of `current_champion` (None: there is none yet)."""
    try:
        whole = Evidence.model_validate(vars(evidence))  # a copy made without validation could hold half a section
    except ValidationError as error:
        return _refuse_unreadable(error)
    results = (
        *_soundness(whole, rules),
        *_floors(whole, rules),
        *_against_tfidf(whole, rules),
        *_round_trip(whole, rules),
        *_against_champion(whole, rules, current_champion),
    )
    failed = tuple(result.reason for result in results if result.status != "pass")
    if failed:
        return Decision("refuse", results, failed)
    if current_champion is None:
        basis = "There is no champion yet: the champion rules were skipped, and the other rules alone decided."
    else:
        basis = f"Better than champion {current_champion} on the same rows by an exact paired test, and no class is worse."
    return Decision("promote", results, (basis,))


def _soundness(evidence: Evidence, rules: GateConfig) -> Iterator[RuleResult]:
    absent = ", ".join(_absent(evidence))
    reason = f"Evidence is missing or not a number: {absent}." if absent else "Every piece of evidence is there."
    yield RuleResult("evidence_complete", absent or "complete", "complete", "missing" if absent else "pass", reason)

    counts = _row_counts(evidence)
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    same = len(set(counts.values())) == 1
    status: Status = "pass" if same else "fail" if counts else "missing"
    yield RuleResult("same_rows", listed or None, "all equal", status, f"Test rows as counted by: {listed or 'nothing'}.")

    yield _rule("test_rows", evidence.n_test, "at least", rules.min_test_rows, "Test rows")
    if evidence.leaks is None and evidence.leaks_unknown_because:
        yield RuleResult("leaks", None, 0, "missing", evidence.leaks_unknown_because)
    else:
        yield _rule("leaks", evidence.leaks, "exactly", 0, "Pairs of equal or nearly equal tweets across splits")


def _floors(evidence: Evidence, rules: GateConfig) -> Iterator[RuleResult]:
    metrics: Any = evidence.metrics
    yield _rule("accuracy", _at(metrics, "accuracy"), "at least", rules.min_accuracy, "Accuracy")
    yield _rule("macro_f1", _at(metrics, "macro_f1"), "at least", rules.min_macro_f1, "Macro-F1")
    for label in LABELS:
        f1 = _at(metrics, "per_class", label, "f1")
        yield _rule(f"class_f1.{label}", f1, "at least", rules.min_class_f1, f"F1 of {label}")
    yield _rule("ece", evidence.ece, "at most", rules.max_ece, "Calibration error after temperature scaling")


def _against_tfidf(evidence: Evidence, rules: GateConfig) -> Iterator[RuleResult]:
    floor: Any = evidence.baseline
    accuracy, least = _at(evidence.metrics, "accuracy"), _at(floor, "accuracy")
    yield _rule("beats_tfidf", accuracy, "above", least, "Accuracy, against the TF-IDF floor's")
    p_value, what = _at(floor, "mcnemar", "p_one_sided"), "p of the exact McNemar test against the TF-IDF floor"
    yield _rule("beats_tfidf_significantly", p_value, "below", rules.alpha, what)


def _round_trip(evidence: Evidence, rules: GateConfig) -> Iterator[RuleResult]:
    proof: Any = evidence.round_trip
    for name, key, between in (
        ("logits", "max_logit_difference", "training and a load from the registry"),
        ("padding", "max_padding_difference", "one way of padding and another"),
        ("batch", "max_batch_difference", "one text at a time and all at once"),
    ):
        what = f"Largest logit difference between {between}"
        yield _rule(f"round_trip.{name}", _at(proof, key), "at most", rules.max_logit_difference, what)
    same = _at(proof, "head_hash_equal")
    status: Status = "missing" if same is None else "pass" if same is True else "fail"
    verdict = {"pass": "shown", "fail": "shown to be false", "missing": "not shown"}[status]
    yield RuleResult(
        "round_trip.head", same, True, status, f"The classification head in the registry is the trained one: {verdict}."
    )


def _against_champion(evidence: Evidence, rules: GateConfig, current: str | None) -> Iterator[RuleResult]:
    met = evidence.champion_version
    if met != current:
        reason = (
            f"stale evidence: champion changed, the evaluation met {_named(met)} and now it is {_named(current)}. Evaluate again."
        )
        yield RuleResult("champion_current", met, current, "fail", reason)
        return
    if current is None:
        reason = "There is no champion yet: the rules that compare with one are skipped."
        yield RuleResult("champion_current", None, None, "pass", reason)
        return
    yield RuleResult("champion_current", met, current, "pass", f"The evaluation met the champion of now, version {current}.")

    champion: Any = evidence.champion
    own, other = _class_rows(evidence.metrics), _class_rows(_at(champion, "metrics"))
    status: Status = "missing" if not (evidence.champion_compared and other) else "pass" if own == other else "fail"
    verdict = {"pass": "scored the same rows", "fail": "scored other rows", "missing": "was not scored on the same rows"}[status]
    reason = f"Champion {current} {verdict} (by true class: {own} and {other})."
    yield RuleResult("champion_compared", str(other) if other else None, str(own), status, reason)

    p_value, what = _at(champion, "mcnemar", "p_one_sided"), f"p of the exact McNemar test against champion {current}"
    yield _rule("beats_champion", p_value, "below", rules.alpha, what)
    for label in LABELS:
        low = _at(champion, "paired_bootstrap", "class_f1_difference", label, "low")
        what = f"F1 of {label} minus the champion's, lower end of the paired interval"
        yield _rule(f"class_no_worse.{label}", low, "above", -rules.class_margin, what)


def _rule(name: str, value: Any, relation: str, threshold: Any, what: str) -> RuleResult:
    number, limit = _number(value), _number(threshold)
    if number is None or limit is None:
        unknown = "value" if number is None else "threshold"
        return RuleResult(name, number, limit, "missing", f"{what}: no finite {unknown}, so this is not shown.")
    passed = bool(_RELATIONS[relation](number, limit))
    reason = f"{what}: {_shown(number)}, required {relation} {_shown(limit)}."
    return RuleResult(name, number, limit, "pass" if passed else "fail", reason)


def _shown(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:.4g}"


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if usable else None


def _at(section: Any, *path: str) -> Any:
    for key in path:
        section = section.get(key) if isinstance(section, Mapping) else None
    return section


def _absent(evidence: Evidence) -> Iterator[str]:
    """Paths of what should be there and is not, or is no finite number."""
    exempt = {"champion_version", "champion_compared", "leaks_unknown_because"} | (
        {"champion"} if evidence.champion_version is None else set()
    )
    for name in type(evidence).model_fields:
        if name in _FOR_PEOPLE:
            continue
        value = getattr(evidence, name)
        if name not in exempt and (value is None or value in ("", {})):
            yield name
        yield from _not_finite(name, value)
    by_label = ("metrics.per_class", "champion.metrics.per_class", "champion.paired_bootstrap.class_f1_difference")
    expected = {"intervals": ("accuracy", "macro_f1"), **dict.fromkeys(by_label, LABELS)}
    for path, keys in expected.items():
        first, *rest = path.split(".")
        section = _at(getattr(evidence, first), *rest)
        if section is not None:
            yield from (f"{path}.{key}" for key in keys if key not in section)


def _not_finite(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield path
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _not_finite(f"{path}.{key}", item)


def _row_counts(evidence: Evidence) -> dict[str, int]:
    counts = {} if evidence.n_test is None else {"n_test": evidence.n_test}
    for name, metrics in (("metrics", evidence.metrics), ("champion", _at(evidence.champion, "metrics"))):
        if metrics is not None:
            counts |= {name: metrics["n"], f"{name} confusion": sum(map(sum, metrics["confusion"]))}
    if evidence.per_source is not None:
        counts["sources"] = sum(source["n"] for source in evidence.per_source.values())
    return counts


def _class_rows(metrics: Any) -> list[int]:
    return [] if metrics is None else [sum(row) for row in metrics["confusion"]]


def _named(version: str | None) -> str:
    return "no champion" if version is None else f"version {version}"


def _refuse_unreadable(error: ValidationError) -> Decision:
    found = "; ".join(f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors())
    reason = f"The evidence is not whole: {found}."
    return Decision("refuse", (RuleResult("evidence_complete", found, "complete", "missing", reason),), (reason,))
