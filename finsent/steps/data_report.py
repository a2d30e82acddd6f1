"""The data report: a version of the data as a page in the home and as an MLflow run of kind `data`, one for each version."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finsent.config import Config
from finsent.data.dataset import DataVersion, data_version, read_report
from finsent.data.splits import SPLITS
from finsent.data.table_access import UnreadableVersionError
from finsent.data.validation.language import detect_language
from finsent.data.version_statistics import count_languages, diff_versions, summarise
from finsent.data.versions_view import latest_time, originating_version, previous_version, quarantine_examples, version_numbers
from finsent.evaluation.confounding import confounding
from finsent.files import locked
from finsent.registry.mlflow_errors import public_uri
from finsent.registry.tracking import RunTag, connect, experiment_id, log_dataset, start_run
from finsent.steps.context import Context
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from finsent.data.ingest_report import IngestReport
    from finsent.reporting.data_report import DataFacts

_log = logging.getLogger(__name__)

KIND: Final = "data"
"""Tag `kind` of the runs that stand for versions of the data."""
ARTIFACTS: Final = "data"
"""Where page and figures lie among such a run's artifacts."""
_EXAMPLES: Final = 3
_WAIT: Final = 600.0  # seconds for another process that logs one
_CONFLICTS: Final = 20


@dataclass(frozen=True)
class DataReport:
    """A report that was written."""

    version: int
    path: Path
    """The page."""
    run_id: str | None
    """MLflow run of this data version; None where none was asked for."""
    facts: "DataFacts"


def report_ingestion(context: Context, report: "IngestReport") -> DataReport | None:
    """Report the version that an ingestion left; None where its page is there already, or there are no rows to report.

    Raises:
        ServiceError: MLflow does not answer; the page is there by then.
    """
    rows: dict[str, int] = {name: sum(report.splits[name].values()) for name in SPLITS}
    if report.version is None or not any(sum(labels.values()) for labels in report.splits.values()):
        return None
    if page_path(context.workspace, report.version).exists() and not report.new_version:
        return None
    known = DataVersion(report.version, str(report.fingerprint), rows, report.leaks, report.naive_leak)
    return report_data(context, report.version, known=known)


def report_data(
    context: Context, version: int | None = None, *, to_mlflow: bool = True, known: DataVersion | None = None
) -> DataReport:
    """Write the page of a data version (the latest by default) and log it to MLflow, unless `to_mlflow` is off.

    Doing it again replaces what is there.

    What is `known` of the version need not be found out from the table again.

    Raises:
        InputError: no data yet, or no such version.
        ServiceError: MLflow does not answer; the page is there by then.
    """
    from finsent.reporting.data_report import write_data_report

    facts = gather_facts(context.workspace, version, known)
    path = page_path(context.workspace, facts.data.version)
    write_data_report(facts, path)
    run_id = _log_run(context, facts, path) if to_mlflow else None
    return DataReport(facts.data.version, path, run_id, facts)


def page_path(home: Workspace, version: int) -> Path:
    """Where the page of a data version is."""
    return home.reports / f"data-v{version}.html"


def gather_facts(home: Workspace, version: int | None = None, known: DataVersion | None = None) -> "DataFacts":
    """All that is known of a version: its table looked through once, its report, quarantine and predecessor beside it."""
    from finsent.reporting.data_report import DataFacts

    data = known or data_version(home, version)
    summary = summarise(home, data.version)
    made = originating_version(home, data.version, data.fingerprint)
    before = previous_version(home, made)
    newest = max(version_numbers(home), default=made)
    # rows that later ingestions quarantined are not of this version
    until = None if made >= newest else latest_time(home, made)
    refused = quarantine_examples(home, until, _EXAMPLES, _CONFLICTS)
    difference, no_difference = None, "This is the first version."
    if before is not None:
        try:
            difference = diff_versions(home, before, data.version)
        except UnreadableVersionError as error:  # no reason to be without a report of the version that is there
            no_difference = f"No comparison: {error}"
            _log.warning("the report of data version %d compares it with none: %s", data.version, error)
    return DataFacts(
        data=data,
        report=_without_secrets(read_report(home, made)),
        summary=summary,
        confounding=confounding(summary.counts.sum(axis=0), summary.of_split("train"), summary.of_split("test"), summary.sources),
        quarantine=refused.rows,
        quarantined=refused.reasons,
        conflicts=refused.conflicts,
        difference=difference,
        no_difference=no_difference,
        languages=count_languages(summary.sample, detect_language),
    )


def data_run(client: "MlflowClient", config: Config, home: Workspace, version: int, fingerprint: str) -> str | None:
    """MLflow run that stands for exactly this version of the data, if there is one."""
    wanted = {"kind": KIND, "data_version": str(version), "data_fingerprint": fingerprint}
    text = " and ".join(f"tags.{key} = '{value}'" for key, value in wanted.items())
    found = client.search_runs([experiment_id(client, home, config.experiment)], filter_string=text, max_results=1)
    return str(found[0].info.run_id) if found else None


def figures(facts: "DataFacts") -> dict[str, float]:
    """Counts and measures of a version as MLflow metrics."""
    report, summary, found = facts.report, facts.summary, facts.confounding
    flat: dict[str, Any] = {
        key: report.get(key) for key in ("read", "accepted", "duplicates", "quarantined", "unlabelled", "conflicts", "groups")
    }
    flat |= {f"quarantined_{_key(reason)}": n for reason, n in (report.get("reasons") or {}).items()}
    flat |= {"rows": summary.rows, "sources": len(summary.sources)}
    flat |= {f"rows_{split}": sum(counts.values()) for split, counts in summary.by_split().items()}
    flat |= {f"flagged_{_key(flag)}": n for flag, n in summary.flags.items()}
    flat |= {"leaks": facts.data.leaks, "naive_leak": facts.data.naive_leak}
    flat |= {
        "majority_accuracy": found.majority_accuracy,
        "source_majority_accuracy": found.source_majority_accuracy,
        "label_source_mutual_information": found.mutual_information,
        "label_source_cramers_v": found.cramers_v,
    }
    return {key: float(value) for key, value in flat.items() if isinstance(value, int | float)}


def describe(facts: "DataFacts") -> dict[str, Any]:
    """Everything on the page as plain values, for JSON."""
    return {
        "version": facts.data.version,
        "fingerprint": facts.data.fingerprint,
        "leaks": facts.data.leaks,
        "naive_leak": facts.data.naive_leak,
        "ingestion": dict(facts.report),
        "summary": facts.summary.describe(),
        "confounding": dataclasses.asdict(facts.confounding),
        "quarantine_on_record": dict(facts.quarantined),
        "difference": dataclasses.asdict(facts.difference) if facts.difference else None,
        "languages": facts.languages,
    }


def _log_run(context: Context, facts: "DataFacts", page: Path) -> str:
    """The run of this version, made or brought up to date."""
    data = facts.data
    client = connect(context.workspace)
    with locked(context.workspace.lock("data-report"), _WAIT, "another process has been logging a data report for ten minutes."):
        known = data_run(client, context.config, context.workspace, data.version, data.fingerprint)
        tags: dict[RunTag, str] = {
            "fingerprint": data.fingerprint,
            "leaks": str(data.leaks),
            "confounded": str(facts.confounding.confounded),
            **context.run_tags,
        }
        with start_run(context.config, context.workspace, kind=KIND, tags=tags, data=data, resume=known) as run_id:
            for key, value in figures(facts).items():
                client.log_metric(run_id, key, value)
            client.log_artifact(run_id, str(page), ARTIFACTS)
            details = json.dumps(describe(facts), indent=2, ensure_ascii=False, default=str)
            client.log_text(run_id, details, f"{ARTIFACTS}/data-v{data.version}.json")
            log_dataset(
                client,
                run_id,
                context.workspace,
                table="tweets",
                version=data.version,
                fingerprint=data.fingerprint,
                context=KIND,
                rows=facts.summary.rows,
            )
    _log.info("data version %s: page %s, MLflow run %s", data.version, page, run_id)
    return run_id


def _without_secrets(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report, its addresses without user names and passwords."""
    inputs = [{**item, "uri": public_uri(str(item["uri"]))} if "uri" in item else item for item in report.get("inputs", ())]
    return {**report, "inputs": inputs} if inputs else dict(report)


def _key(name: str) -> str:
    return "_".join(name.split())
