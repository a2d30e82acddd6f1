"""The evaluation report: sections, escaping, missing evidence, self-containment."""

import re
from dataclasses import astuple
from html.parser import HTMLParser

from finsent.config import load_config
from finsent.evaluation.evidence import Evidence
from finsent.evaluation.examples import ErrorPair, WorstError, disagreements, worst_errors
from finsent.registry.gate import evaluate_gate
from finsent.reporting.evaluation_report import GLOSSARY, write_evaluation_report
from finsent.reporting.plots import draw_plots
from finsent.reporting.summaries import DecisionSummary, RuleRow, champion_remeasured, gate_preview


class Balance(HTMLParser):
    """Fails on tags that are not closed in order, and collects what is referred to."""

    def __init__(self):
        super().__init__()
        self.open, self.references = [], []

    def handle_starttag(self, tag, attrs):
        self.references += [value for key, value in attrs if key in {"src", "href"}]
        if tag not in {"meta", "img", "br", "wbr"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(path):
    """The page's text, after a look at its form: one document, tags closed in order, nothing loaded from elsewhere."""
    page = path.read_text(encoding="utf-8")
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert all(reference.startswith("data:image/png;base64,") for reference in parser.references)
    assert not re.search(r"@import|url\(|<script|<link", page)
    assert not re.search(r"\bnan\b", re.sub(r'src="[^"]*"', "", page))
    return page, len(parser.references)


def preview(decision):
    return gate_preview("4", decision.decision, decision.reasons, map(astuple, decision.rules))


def refusal():
    rules = (
        RuleRow("accuracy", 0.83, 0.5, "pass", "Accuracy: 0.83, required at least 0.5."),
        RuleRow("macro_f1_noninferior", -0.021, -0.01, "fail", "Macro-F1 minus the champion's is too low."),
        RuleRow("leaks", None, 0, "missing", "No leak audit <is> known."),
    )
    return DecisionSummary(
        "Version 4 was refused <by> the gate",
        False,
        ("Macro-F1 is too low.",),
        rules,
        "2026-11-25 04:20 UTC",
        "Ada",
        "not yet & no",
    )


def test_the_page_shows_decision_evidence_and_provenance(specimen, tmp_path):
    evidence = specimen.evidence
    plots = draw_plots(evidence, specimen.scaled, specimen.labels, load_config().gate, tmp_path)
    texts = specimen.texts
    examples = disagreements(texts, specimen.labels, specimen.champion, specimen.scaled, specimen.groups, 2)
    errors = worst_errors(texts, specimen.labels, specimen.scaled, specimen.groups, 2)
    write_evaluation_report(
        evidence, plots, tmp_path / "new" / "report.html", decision=refusal(), examples=examples, errors=errors
    )
    page, pictures = read(tmp_path / "new" / "report.html")
    assert pictures == len(plots) == 5
    champion, metrics = evidence.champion, evidence.metrics
    for shown in (
        "✗ Version 4 was refused &lt;by&gt; the gate",
        "2026-11-25 04:20 UTC, by Ada",
        "not yet &amp; no",
        "1 of 3 rules passed, 1 failed, 1 had no evidence",
        "No leak audit &lt;is&gt; known.",
        "This test set can detect differences above",
        "used twice with exactly these rows and 5 times",
        f"<td>{metrics['accuracy']:.3f}</td>",
        f"<td>{champion['metrics']['accuracy']:.3f}</td>",
        f"better on {champion['mcnemar']['only_a']:,} groups of near-duplicate tweets",
        "<td>-2.1</td><td>-1.0</td>",  # what the gate held the macro-F1 against
        "most frequent class of the source",
        f"{evidence.calibration['brier']:.3f}",
        "source = pyfin_moritz",
        "label must change",
        "$XYZ &lt;i&gt;beats&lt;/i&gt; @desk",
        "Only the champion is right",
        "taken for",
        "612 tweets/s",
        "A naive random split would have reported an accuracy of 0.900; held-out rows give 0.887.",
        evidence.data_fingerprint,
        evidence.manifest_sha256,
        evidence.rules_sha256,
    ):
        assert shown in page, shown
    assert "<b>futures" not in page
    order = [page.index(reason) for reason in ("Macro-F1 minus the champion", "No leak audit", "Accuracy: 0.83")]
    assert order == sorted(order)  # failed, missing, passed
    for sign in ("✗ FAIL", "? MISSING", "✓ pass"):  # told by more than a colour
        assert sign in page


def test_a_version_without_a_champion_has_none_beside_it(first_specimen, tmp_path):
    verdict = preview(evaluate_gate(first_specimen.evidence, load_config().gate, None))
    write_evaluation_report(first_specimen.evidence, {}, tmp_path / "report.html", decision=verdict)
    page, pictures = read(tmp_path / "report.html")
    assert pictures == 0
    assert "There was no champion" in page
    assert "No examples were kept." in page
    assert "Version 4 would be refused by the gate" in page
    assert "robust.<wbr>case" in page


def test_a_champion_evaluated_again_is_not_compared_with_itself(first_specimen, tmp_path):
    evidence = first_specimen.evidence.model_copy(update={"champion_version": first_specimen.evidence.model_version})
    write_evaluation_report(
        evidence, {}, tmp_path / "report.html", decision=champion_remeasured(evidence.model_version), examples=[]
    )
    page, _ = read(tmp_path / "report.html")
    assert page.count("This version is the champion itself.") == 3
    assert "<code>finsent history</code>" in page
    assert "agree on every test row" not in page
    assert "<th>champion" not in page
    assert "champion&#39;s F1" not in page


def test_missing_evidence_is_marked_as_not_measured(tmp_path):
    write_evaluation_report(Evidence(model_name="finsent <script>", model_version="1"), {}, tmp_path / "report.html")
    page, _ = read(tmp_path / "report.html")
    assert page.count("not measured") + page.count("Not measured") >= 15
    assert "There was no champion" in page
    assert "Not decided" in page


def robustness_of(page):
    """The table below the heading."""
    return page.split("<h2>Robustness to changed texts</h2>")[1].split("</table>")[0]


def test_a_check_over_its_limit_is_marked_beside_the_limit(specimen, tmp_path):
    rules = (
        RuleRow("robust.case", 0.24, 0.2, "fail", "Too many."),
        RuleRow("robust.typos", 0.11, 0.3, "pass", "Few."),
        RuleRow("robust.negation", None, 0.8, "missing", "Nothing known."),
    )
    write_evaluation_report(
        specimen.evidence, {}, tmp_path / "report.html", decision=DecisionSummary("Refused", False, (), rules)
    )
    rows = robustness_of(read(tmp_path / "report.html")[0]).split("</tr>")
    found = {name: next(row for row in rows if f">{name}</td>" in row) for name in ("case", "typos", "negation", "link change")}
    assert "<th>limit</th>" in rows[0]
    assert '<td>20%</td><td><span class="fail">✗ FAIL</span></td>' in found["case"]
    assert found["typos"].endswith("<td>30%</td><td></td>")
    assert '<td>80%</td><td><span class="missing">' in found["negation"]
    assert found["link change"].endswith("<td>–</td><td></td>")  # of too few texts: the gate has no rule for it


def test_without_rules_no_limit_is_claimed(specimen, tmp_path):
    write_evaluation_report(specimen.evidence, {}, tmp_path / "report.html")
    assert "limit" not in robustness_of(read(tmp_path / "report.html")[0])


def test_a_hesitant_error_is_not_called_confident(specimen, tmp_path):
    sure, hesitant = WorstError("sure and wrong", "Neutral", "Bullish", 0.5), WorstError("a guess", "Neutral", "Bullish", 0.49)
    errors = [ErrorPair("Neutral", "Bullish", 2, (sure, hesitant))]
    write_evaluation_report(specimen.evidence, {}, tmp_path / "report.html", errors=errors)
    page, _ = read(tmp_path / "report.html")
    assert "errors of this kind" in page
    assert "sure and wrong" in page
    assert "a guess" not in page
    write_evaluation_report(
        specimen.evidence, {}, tmp_path / "report.html", errors=[ErrorPair("Neutral", "Bullish", 1, (hesitant,))]
    )
    assert "No wrong answer had a confidence of 0.5 or more." in read(tmp_path / "report.html")[0]


def test_scaling_that_made_calibration_worse_is_said_on_the_page(specimen, tmp_path):
    worse = {"ece": specimen.evidence.calibration["ece_before_scaling"] + 0.01}
    write_evaluation_report(specimen.evidence.model_copy(update=worse), {}, tmp_path / "worse.html")
    write_evaluation_report(specimen.evidence, {}, tmp_path / "better.html")
    sentence = "Temperature scaling increased the calibration error here"
    assert sentence in read(tmp_path / "worse.html")[0]
    assert sentence not in read(tmp_path / "better.html")[0]


def test_the_page_is_laid_out_for_a_narrow_screen_too(specimen, tmp_path):
    write_evaluation_report(specimen.evidence, {}, tmp_path / "report.html", decision=refusal())
    page, _ = read(tmp_path / "report.html")
    assert '<meta name="viewport" content="width=device-width' in page  # a telephone obeys @media only with it
    assert "@media (max-width: 600px)" in page
    assert page.count('<div class="rules">') == 2


def test_the_glossary_has_one_sentence_for_each_term(specimen, tmp_path):
    write_evaluation_report(specimen.evidence, {}, tmp_path / "report.html")
    page, _ = read(tmp_path / "report.html")
    assert "<details><summary>Glossary</summary>" in page
    for term in (
        "gate", "baseline", "MCC", "macro-F1", "calibration error", "temperature", "Brier score", "slice", "head",
        "pooled position", "packed engine", "McNemar test",
    ):  # fmt: skip
        assert f"<td>{term}</td>" in page, term
    assert all(meaning.endswith(".") and ". " not in meaning for meaning in GLOSSARY.values())


def test_plots_without_a_section_follow_below_their_own_heading(specimen, tmp_path):
    plots = draw_plots(specimen.evidence, specimen.scaled, specimen.labels, load_config().gate, tmp_path)
    extra = {**plots, "Another <plot>": plots["Confusion matrix"]}
    write_evaluation_report(specimen.evidence, extra, tmp_path / "report.html")
    page, pictures = read(tmp_path / "report.html")
    assert pictures == 6
    assert "Another &lt;plot&gt;" in page.split("<h2>More plots</h2>")[1]
