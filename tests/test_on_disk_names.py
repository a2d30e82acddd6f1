"""Every name that finsent writes to disk, to MLflow or into an event, compared with the frozen list in on_disk_names.json.

Tables, logs and registered versions outlive a release, so a renamed column, tag or key makes them unreadable.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel
from typing_extensions import is_typeddict

from finsent.config.schema import Config, DataConfig, InboxSource, Source
from finsent.data import corrections, inbox, quarantine
from finsent.data.ingest_report import IngestReport, report_metadata
from finsent.data.splits import split_rule
from finsent.data.table_schemas import SCHEMAS, CommitKey
from finsent.data.validation.row_validation import Reason
from finsent.evaluation.evidence import Evidence
from finsent.models import manifest
from finsent.registry import aliases, audit_log, audit_mirror, client, evidence_store, packaging, tracking
from finsent.registry.gate import Decision, RuleResult, evaluate_gate
from finsent.reporting import evaluation_report
from finsent.reporting.evaluation_report import evaluation_metrics
from finsent.scoring.writer import APPLICATION
from finsent.workspace import LockName, Workspace
from tests.registry.whole_evidence import RULES, passing

FROZEN = Path(__file__).with_name("on_disk_names.json")


def keys_of(kind: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of a pydantic model or a TypedDict, nested ones included; what a mapping or a list holds is `*`."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        members = {name: field.annotation for name, field in kind.model_fields.items() if not field.exclude}
    elif is_typeddict(kind):
        members = {name: hint for name, hint in get_type_hints(kind).items() if not name.startswith("__")}
    else:
        inner = {nested for part in get_args(kind) for nested in keys_of(part, prefix)}
        origin = getattr(kind, "__origin__", None)
        yield from ({f"{prefix}*.{key.removeprefix(prefix)}" for key in inner} if origin in {dict, list, tuple} else inner)
        return
    for name, hint in members.items():
        yield f"{prefix}{name}"
        yield from keys_of(hint, f"{prefix}{name}.")


def table_columns() -> set[str]:
    return {f"{table}.{column}" for table, schema in SCHEMAS.items() for column in schema.names}


def commit_names() -> set[str]:
    """Applications and metadata keys of Delta commits."""
    return {
        *get_args(CommitKey),
        corrections.TWEETS_APPLICATION,
        inbox._APPLICATION,
        quarantine.APPLICATION,
        APPLICATION,
    }


def ingest_report_keys() -> set[str]:
    from finsent.data.sources.reading import ReadSummary

    values: Any = {field.name: None for field in fields(IngestReport)}
    return set(report_metadata(IngestReport(**values), split_rule(DataConfig()), ReadSummary()))


def workspace_paths() -> set[str]:
    from finsent.cli.server_password import password_path
    from finsent.cli.services_file import services_path
    from finsent.data.dataset import report_path
    from finsent.data.suspect_cache import cache_path
    from finsent.models.fingerprint import CACHE
    from finsent.steps.data_report import page_path
    from finsent.training import checkpoint, run_dir
    from finsent.tuning import search

    home = Workspace(Path("/home"), "tables", "uri")
    places = [value for name in vars(Workspace) if isinstance(value := getattr(home, name), Path) and value != home.root]
    study = search.study_dir(home, "STUDY")
    run = home.runs / "RUN"
    places += [
        study / search._DATABASE,
        study / search._IDENTITY,
        run / run_dir.STATE,
        run / run_dir.RESULT,
        run / f"{checkpoint.PREFIX}STEP",
        home.bases / CACHE,
        report_path(home, 1),
        page_path(home, 1),
        password_path(home.root),
        services_path(home.root),
        cache_path(home, ("train", "validation")),
        *(home.lock(name) for name in get_args(LockName)),
    ]
    return {str(place.relative_to(home.root)) for place in places}


def artifacts() -> set[str]:
    """Folders and files in MLflow, and files of an adapter."""
    from finsent.steps import data_report

    written = (
        evaluation_report.REPORT_INPUTS,
        evaluation_report.PREDICTIONS,
        evaluation_report.REPORT_PAGE,
        evaluation_report.MODEL_CARD,
    )
    return {
        evidence_store.EVIDENCE,
        evidence_store.REPORT,
        *(f"{evidence_store.EVIDENCE_FOLDER}/{name}" for name in (*written, evaluation_report.MODEL_CARD_PAGE)),
        audit_mirror.FOLDER,
        data_report.ARTIFACTS,
        packaging.ADAPTER,
        manifest.MANIFEST,
        manifest.PROBE,
        *manifest.ADAPTER_FILES,
    }


def audit_log_keys() -> set[str]:
    nested = {f"gate_decision.{field.name}" for field in fields(Decision)} | {"gate_decision.input_sha256"}
    nested |= {f"rules.*.{field.name}" for field in fields(RuleResult)}
    return {*get_args(audit_log.EntryKey), *audit_log._OWN_KEYS, *nested}


def audit_log_actions() -> set[str]:
    names = ("EVALUATE", "TEST_SET_USE", "GATE", "APPROVE", "REJECT", "APPROVAL_VOID", "ROLLBACK", "ADOPT")
    return {getattr(audit_log, name) for name in names}


def gate_rules() -> set[str]:
    """Rules about evidence that is complete, with a champion to compare with."""
    return {rule.name for rule in evaluate_gate(Evidence(**passing()), RULES, "3").rules}


def events() -> set[str]:
    from finsent.cli import freshness
    from flows import tasks

    return {tasks.PROMOTED, tasks.APPROVAL_REQUESTED, tasks.RETRAIN_REQUESTED, freshness.OVERDUE, freshness.FRESH}


def stages_and_aliases() -> set[str]:
    stages = {aliases.NONE, aliases.CANDIDATE, aliases.STAGING, aliases.PRODUCTION, aliases.ARCHIVED}
    return {*stages, client.CHAMPION, client.CHALLENGER, client.PREVIOUS}


def configuration_keys() -> set[str]:
    return {*keys_of(Config), *keys_of(Source, "data.sources.*."), *keys_of(InboxSource, "scoring.sources.*.")}


SECTIONS: Mapping[str, Callable[[], set[str]]] = {
    "artifacts": artifacts,
    "audit-log actions": audit_log_actions,
    "audit-log keys": audit_log_keys,
    "configuration keys": configuration_keys,
    "Delta commits": commit_names,
    "events": events,
    "evidence keys": lambda: set(keys_of(Evidence)),
    "gate rules": gate_rules,
    "ingest report keys": ingest_report_keys,
    "manifest keys": lambda: set(keys_of(manifest.Manifest)),
    "quarantine reasons": lambda: set(get_args(Reason)),
    "registered-model tags": lambda: {aliases._ROLLBACK},
    "run kinds": lambda: set(get_args(tracking.RunKind)),
    "run tags": lambda: set(get_args(tracking.RunTag)),
    "stages and aliases": stages_and_aliases,
    "table columns": table_columns,
    "version tags": lambda: set(get_args(client.VersionTag)),
    "workspace paths": workspace_paths,
}


def frozen(section: str) -> set[str]:
    return set(json.loads(FROZEN.read_text(encoding="utf-8"))[section])


def advice(section: str, found: set[str]) -> str:
    """What to do about names that differ from the frozen ones."""
    gone, new = sorted(frozen(section) - found), sorted(found - frozen(section))
    return (
        f"{section}: gone {gone}, new {new}. These names are on users' disks. A renamed or removed one needs a migration of what "
        f"was written under the old name, and an ADR in docs/adr that says why; then, or for a name that is only new, change "
        f"{FROZEN.name} too."
    )


@pytest.mark.parametrize("section", SECTIONS)
def test_names_on_disk_are_those_that_were_frozen(section: str) -> None:
    found = SECTIONS[section]()
    assert found == frozen(section), advice(section, found)


def test_metrics_of_an_evaluation_are_those_that_were_frozen(specimen: Any) -> None:
    found = set(evaluation_metrics(specimen.evidence))
    assert found == frozen("evaluation metrics"), advice("evaluation metrics", found)


def test_every_frozen_section_is_compared() -> None:
    assert set(json.loads(FROZEN.read_text(encoding="utf-8"))) == {*SECTIONS, "evaluation metrics"}


def test_a_renamed_name_is_told_with_what_to_do() -> None:
    renamed = stages_and_aliases() - {"champion"} | {"best"}
    assert renamed != frozen("stages and aliases")
    assert re.search(r"gone \['champion'\], new \['best'\].*migration.*ADR", advice("stages and aliases", renamed))
