"""The promotion gate: evidence and rules in, a decision with reasons out. Pure; fails closed on missing evidence.

Every rule is listed in the decision, passed or not. Evidence that is absent or not a finite number fails its rule, and
`evidence_complete` names it as well. A higher score alone does not promote a challenger, since two equal models reach it half
of the time: it must win an exact paired test on the same rows (docs/adr/0003-gate-rules-and-paired-tests.md).
"""

import hashlib
import json
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from finsent.config import GateConfig
from finsent.evaluation import noninferiority, power
from finsent.evaluation.baselines import BASELINE_NAMES
from finsent.evaluation.evidence import Evidence
from finsent.evaluation.noninferiority import Estimate, NonInferiority, check_noninferiority
from finsent.evaluation.power import format_power
from finsent.evaluation.robustness.suite import CHECKS
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

_UNMEETABLE: Final = (
    "It cannot be met on these rows: the baseline makes no error. More or harder test rows are needed (finsent ingest)."
)

_OPTIONAL: Final = {"naive_split", "scored_with", "taken_at"}  # for people to read: no rule rests on these


@dataclass(frozen=True)
class RuleResult:
    """One rule's outcome."""

    name: str
    value: Value
    """Measured value; None where it is missing or not a finite number."""
    threshold: Value
    """What it was compared with."""
    status: Status
    """`missing` counts as failed."""
    reason: str
    """One sentence for a person."""


@dataclass(frozen=True)
class Decision:
    """The gate's decision and its reasons."""

    decision: Literal["promote", "refuse"]
    rules: tuple[RuleResult, ...]
    """Every rule, in order."""
    reasons: tuple[str, ...]
    """One sentence for each rule that did not pass; or what the promotion rests on."""


@dataclass(frozen=True)
class GateInput:
    """What a decision rests on: equal inputs give equal decisions, so a decision needs to be made once."""

    evidence_sha256: str | None
    rules_sha256: str
    champion: str | None
    """Champion that the version is compared with; None: there is none."""

    @property
    def digest(self) -> str:
        """SHA-256 of the inputs and of the gate's own code: a changed gate judges again."""
        return hashlib.sha256(json.dumps([_code_digest(), *astuple(self)]).encode()).hexdigest()


@cache
def _code_digest() -> str:
    files = (Path(__file__), Path(str(noninferiority.__file__)), Path(str(power.__file__)))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def rules_digest(rules: GateConfig) -> str:
    """SHA-256 of the rules: evidence states with it which rules were declared when it was taken."""
    return hashlib.sha256(json.dumps(rules.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def evaluate_gate(evidence: Evidence, rules: GateConfig, current_champion: str | None) -> Decision:
    """Whether the version that `evidence` is about may take the place of `current_champion` (None: there is none yet)."""
    try:
        whole = Evidence.model_validate(vars(evidence))  # a copy made without validation could hold half a section
    except ValidationError as error:
        return _refuse_unreadable(error)
    results = (
        *_soundness(whole, rules),
        *_minima(whole, rules),
        *against_baselines(whole, rules),
        *_robustness(whole, rules),
        *_round_trip(whole, rules),
        *_against_champion(whole, rules, current_champion),
    )
    failed = tuple(result.reason for result in results if result.status != "pass")
    if failed:
        return Decision("refuse", results, failed)
    if current_champion is None:
        basis = "There is no champion yet: the champion rules were skipped, and the other rules alone decided."
    else:
        basis = (
            f"Better than champion {current_champion} on the same rows by an exact paired test, and shown to be no worse in any "
            "class or slice that is judged."
        )
    return Decision("promote", results, (basis,))


def _soundness(evidence: Evidence, rules: GateConfig) -> Iterator[RuleResult]:
    absent = ", ".join(_absent(evidence))
    reason = f"Evidence is missing or not a number: {absent}." if absent else "Every piece of evidence is there."
    yield _result("evidence_complete", absent or "complete", "complete", None if absent else True, reason)

    declared, now = evidence.rules_sha256, rules_digest(rules)
    reason = "The rules are those that were declared when the evidence was taken."
    if declared != now:
        reason = (
            f"The gate's rules are not those declared when the evidence was taken ({_short(declared)}, now {_short(now)}). "
            "Rules are set before a look, not after: put them back, or evaluate again under the new ones."
        )
    yield _result("rules_declared", _short(declared), _short(now), declared == now if declared else None, reason)

    counts = _row_counts(evidence)
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    same = len(set(counts.values())) == 1 if counts else None
    yield _result("same_rows", listed or None, "all equal", same, f"Test rows as counted by: {listed or 'nothing'}.")

    yield _rule("test_rows", evidence.n_test, "at least", rules.min_test_rows, "Test rows")
    if evidence.leaks is None and evidence.leaks_unknown_reason:
        yield _result("leaks", None, 0, None, evidence.leaks_unknown_reason)
    else:
        yield _rule("leaks", evidence.leaks, "exactly", 0, "Pairs of equal or nearly equal tweets across splits")


def _minima(evidence: Evidence, rules: GateConfig) -> Iterator[RuleResult]:
    metrics: Any = evidence.metrics
    yield _rule("accuracy", _at(metrics, "accuracy"), "at least", rules.min_accuracy, "Accuracy")
    yield _rule("macro_f1", _at(metrics, "macro_f1"), "at least", rules.min_macro_f1, "Macro-F1")
    for label in LABELS:
        f1 = _at(metrics, "per_class", label, "f1")
        yield _rule(f"class_f1.{label}", f1, "at least", rules.min_class_f1, f"F1 of {label}")
    yield _rule("ece", evidence.ece, "at most", rules.max_ece, "Calibration error after temperature scaling")


def against_baselines(evidence: Evidence, rules: GateConfig) -> tuple[RuleResult, ...]:
    """Whether the version beats every baseline; all must be beaten, so no correction is needed (intersection-union test)."""
    baselines: Any = evidence.baselines
    results = []
    for baseline, name in BASELINE_NAMES.items():
        accuracy, least = _at(evidence.metrics, "accuracy"), _at(baselines, baseline, "accuracy")
        result = _rule(f"beats_{baseline}", accuracy, "above", least, f"Accuracy, against {name}")
        if result.status == "fail" and least >= 1:
            result = replace(result, reason=f"{result.reason} {_UNMEETABLE}")
        results.append(result)
        p_value, what = _at(baselines, baseline, "mcnemar", "p_one_sided"), f"p of the exact McNemar test against {name}"
        results.append(_rule(f"beats_{baseline}_significantly", p_value, "below", rules.alpha, what))
    return tuple(results)


def _robustness(evidence: Evidence, rules: GateConfig) -> Iterator[RuleResult]:
    checks: Any = evidence.robustness or {}
    for kind, happens in (("invariance", "change"), ("direction", "stay as they were")):
        found = {name: check for name, check in checks.items() if _at(check, "kind") == kind}
        judged = {name: check for name, check in found.items() if (_number(_at(check, "n")) or 0) >= rules.min_check_texts}
        small = [f"{name} ({_at(check, 'n')})" for name, check in found.items() if name not in judged]
        reason = f"Checks of {kind} judged: {len(judged)} of {len(found)}."
        if small:
            reason += f" Of fewer than {rules.min_check_texts} texts, so shown and not judged: {', '.join(small)}."
        yield _result(f"robust.{kind}", f"{len(judged)} of {len(found)}", None, True if judged else None, reason)
        for name, check in judged.items():
            what = f"Share of predictions that {happens} under {name.replace('_', ' ')} ({_at(check, 'n')} texts)"
            yield _rule(f"robust.{name}", _at(check, "failure_rate"), "at most", rules.robustness_limit(name), what)


def _round_trip(evidence: Evidence, rules: GateConfig) -> Iterator[RuleResult]:
    proof: Any = evidence.round_trip
    for name, key, between in (
        ("logits", "max_logit_difference", "training and a load from the registry"),
        ("padding", "max_padding_difference", "one way of padding and another"),
        ("batch", "max_batch_difference", "one text at a time and all at once"),
    ):
        what = f"Largest logit difference between {between}"
        yield _rule(f"round_trip.{name}", _at(proof, key), "at most", rules.max_logit_difference, what)
    for name, key, what in (
        ("head", "head_hash_equal", "The classification head in the registry is the trained one"),
        ("labels", "labels_equal", "The order of the labels is training's"),
        ("pooling", "padding_equal", "Padding side, padding token and pooled position are training's"),
    ):
        same = _at(proof, key)
        shown = "not shown" if same is None else "shown" if same is True else "shown to be false"
        yield _result(f"round_trip.{name}", same, True, None if same is None else same is True, f"{what}: {shown}.")


def _against_champion(evidence: Evidence, rules: GateConfig, current: str | None) -> Iterator[RuleResult]:
    met = evidence.champion_version
    if met != current:
        reason = (
            f"stale evidence: champion changed, the evaluation met {_named(met)} and now it is {_named(current)}. Evaluate again."
        )
        yield _result("champion_current", met, current, False, reason)
        return
    if current is None:
        reason = "There is no champion yet: the rules that compare with one are skipped."
        yield _result("champion_current", None, None, True, reason)
        return
    yield _result("champion_current", met, current, True, f"The evaluation met the champion of now, version {current}.")

    champion: Any = evidence.champion
    own, other = _class_rows(evidence.metrics), _class_rows(_at(champion, "metrics"))
    same = own == other if evidence.champion_compared and other else None
    scored = {True: "scored the same rows", False: "scored other rows", None: "was not scored on the same rows"}[same]
    reason = f"Champion {current} {scored} (by true class: {own} and {other})."
    yield _result("champion_compared", str(other) if other else None, str(own), same, reason)

    p_value, what = _at(champion, "mcnemar", "p_one_sided"), f"p of the exact McNemar test against champion {current}"
    result = _rule("beats_champion", p_value, "below", rules.alpha, what)
    yield replace(result, reason=f"{result.reason} {format_power(_at(champion, 'power'), short=True)}")
    yield from _noninferior_overall(champion, rules)
    yield from _noninferior_by_slice(evidence, rules)


def _noninferior_overall(champion: Any, rules: GateConfig) -> Iterator[RuleResult]:
    paired = _at(champion, "paired_bootstrap")
    macro = {"macro_f1": _estimate(_at(paired, "macro_f1_difference"))}
    by_class = {label: _estimate(_at(paired, "class_f1_difference", label)) for label in LABELS}
    for name, verdict in check_noninferiority(macro, rules.macro_f1_margin, rules.alpha).items():
        yield _margin_rule(f"{name}_noninferior", "Macro-F1", verdict, rules.macro_f1_margin)
    for label, verdict in check_noninferiority(by_class, rules.class_margin, rules.alpha).items():
        yield _margin_rule(f"class_noninferior.{label}", f"F1 of {label}", verdict, rules.class_margin)


def _noninferior_by_slice(evidence: Evidence, rules: GateConfig) -> Iterator[RuleResult]:
    slices: Any = evidence.slices or {}
    every = {f"{dimension}={value}": found for dimension, values in slices.items() for value, found in values.items()}
    judged = {
        name: _estimate(found.get("accuracy_difference")) for name, found in every.items() if found["n"] >= rules.min_slice_rows
    }
    small = [f"{name} ({found['n']})" for name, found in every.items() if name not in judged]
    reason = f"Slices judged: {len(judged)} of {len(every)}."
    if small:
        reason += f" Of fewer than {rules.min_slice_rows} rows, so shown and not judged: {', '.join(small)}."
    if every and not judged:
        reason += " It cannot be met on these rows: more test rows are needed."
    count = f"{len(judged)} of {len(every)}" if every else None
    yield _result("slices_judged", count, None, True if judged else None, reason)
    for name, verdict in check_noninferiority(judged, rules.slice_margin, rules.alpha).items():
        yield _margin_rule(f"slice_noninferior.{name}", f"Accuracy on {name}", verdict, rules.slice_margin)


def _estimate(record: Any) -> Estimate:
    """What the evidence says of a difference; NaN where something is missing, which shows nothing."""
    difference, error = _number(_at(record, "difference")), _number(_at(record, "standard_error"))
    if difference is None or error is None:
        return Estimate(math.nan, math.nan)
    rows, own, other = (_number(_at(record, key)) for key in ("rows", "only_a", "only_b"))
    counts = (int(rows), int(own), int(other)) if rows and own is not None and other is not None else None
    return Estimate(difference, error, counts)


def _margin_rule(name: str, what: str, verdict: NonInferiority, margin: float) -> RuleResult:
    if not math.isfinite(verdict.lower):
        return _result(name, None, -margin, None, f"{what} minus the champion's: no finite value, so nothing is shown.")
    reason = (
        f"{what} minus the champion's: {100 * verdict.difference:+.1f} points, lower end {100 * verdict.lower:+.1f} "
        f"(one-sided {100 * verdict.level:.2f} % interval), required above {-100 * margin:+.1f}."
    )
    return _result(name, round(verdict.lower, 6), -margin, verdict.shown, reason)


def _rule(name: str, value: Any, relation: str, threshold: Any, what: str) -> RuleResult:
    number, limit = _number(value), _number(threshold)
    if number is None or limit is None:
        unknown = "value" if number is None else "threshold"
        return _result(name, number, limit, None, f"{what}: no finite {unknown}, so this is not shown.")
    reason = f"{what}: {_shown(number)}, required {relation} {_shown(limit)}."
    return _result(name, number, limit, bool(_RELATIONS[relation](number, limit)), reason)


def _result(name: str, value: Value, threshold: Value, passed: bool | None, reason: str) -> RuleResult:
    """A rule's outcome; `passed` None: evidence is missing."""
    status: Status = "missing" if passed is None else "pass" if passed else "fail"
    return RuleResult(name, value, threshold, status, reason)


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
    exempt = {"champion_version", "champion_compared", "leaks_unknown_reason"} | (
        {"champion"} if evidence.champion_version is None else set()
    )
    for name in type(evidence).model_fields:
        if name in _OPTIONAL:
            continue
        value = getattr(evidence, name)
        if name not in exempt and (value is None or value in ("", {})):
            yield name
        yield from _not_finite(name, value)
    by_label = ("metrics.per_class", "champion.metrics.per_class", "champion.paired_bootstrap.class_f1_difference")
    expected = {
        "intervals": ("accuracy", "macro_f1", "mcc", "ece", "brier"),
        "baselines": tuple(BASELINE_NAMES),
        "slices": ("source",),
        "robustness": CHECKS,
        **dict.fromkeys(by_label, LABELS),
    }
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
    for dimension, values in (evidence.slices or {}).items():
        counts[f"slices by {dimension}"] = sum(found["n"] for found in values.values())
    return counts


def _class_rows(metrics: Any) -> list[int]:
    return [] if metrics is None else [sum(row) for row in metrics["confusion"]]


def _short(digest: str | None) -> str | None:
    return digest[:12] if digest else None


def _named(version: str | None) -> str:
    return "no champion" if version is None else f"version {version}"


def _refuse_unreadable(error: ValidationError) -> Decision:
    found = "; ".join(f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors())
    reason = f"The evidence is not whole: {found}."
    return Decision("refuse", (RuleResult("evidence_complete", found, "complete", "missing", reason),), (reason,))
