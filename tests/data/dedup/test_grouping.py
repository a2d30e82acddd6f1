"""Where rows end: groups, contradictions, rows from before, rows that would tie two splits together."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.config import DataConfig
from finsent.data import tables
from finsent.data.dedup.assignment import ACCEPTED, DUPLICATE, QUARANTINED, AssignmentResult, ExistingRows, GroupedRows, RowArrays
from finsent.data.dedup.grouping import assign_rows, build_graph
from finsent.data.dedup.signatures import make_signatures
from finsent.data.leakage import audit_texts
from finsent.data.quarantine import quarantine_records
from finsent.data.sources.records import QuarantinedRow, Row
from finsent.data.splits import SPLIT_CODES, split_of_group, split_rule
from finsent.data.staging import open_staging
from finsent.labels import LABEL2ID
from finsent.text import forms, text_id, wording
from finsent.workspace import resolve_workspace

CONFIG = DataConfig()
STRICT = DataConfig(near_contradictions="quarantine")
RULE = split_rule(CONFIG)
LONG = "loading up on september calls this morning because the chart looks ready and volume is finally back"
OTHER = "the board meets on thursday in oslo to set the dividend and nobody expects anything new from it"
Known = tuple[str, str, str, str]


def row(text: str, label: str = "Bullish", number: int = 1) -> Row:
    return Row("desk", "desk", number, text, label, None, forms(text))


def before(*rows: Known) -> tuple[Known, ...]:
    """Rows accepted before: text, label, group, split."""
    return rows


@dataclass
class Placed:
    """A placement in rows, not numbers."""

    rows: Sequence[Row]
    known: Sequence[Known]
    placement: AssignmentResult
    stored: ExistingRows
    naive_groups: list[int]
    accepted: list[tuple[Row, str, str]] = field(default_factory=list)
    duplicates: list[Row] = field(default_factory=list)

    @property
    def conflicts(self) -> int:
        return self.placement.conflicts

    @cached_property
    def quarantined(self) -> list[tuple[Row, QuarantinedRow]]:
        """With what the quarantine says, the texts accepted before read from a real table."""
        with tempfile.TemporaryDirectory() as folder:
            home = resolve_workspace({"FINSENT_HOME": folder})
            if self.known:
                rows = [
                    {"id": text_id(text), "text": text, "label": label, "source": "s", "group": group, "split": split}
                    for text, label, group, split in self.known
                ]
                tables.append(home, "tweets", pa.Table.from_pylist(rows, schema=tables.SCHEMAS["tweets"]))
            with open_staging(Path(folder) / "staging", CONFIG) as staging, staging.writer() as writer:
                writer.add(self.rows, [])
                told = quarantine_records(self.placement.rejections, writer.finish(), self.stored, home, masked=False)
                return [(self.rows[item.row], why) for item, why in zip(self.placement.rejections, told(), strict=True)]


def placed(
    rows: Sequence[Row],
    accepted: Sequence[Known] = (),
    stay_out: Sequence[str] = (),
    decided: Sequence[str] = (),
    config: DataConfig = CONFIG,
) -> Placed:
    known = [forms(text) for text, *_ in accepted]
    groups = pa.array([group for _, _, group, _ in accepted], pa.string()).dictionary_encode()
    stored = ExistingRows(
        RowArrays(
            pa.array([form.id for form in known], pa.string()),
            np.array([LABEL2ID[label] for _, label, _, _ in accepted], np.int8),
            make_signatures(known, CONFIG),
        ),
        groups.indices.to_numpy().astype(np.int64),
        groups.dictionary,
        np.array([SPLIT_CODES.index(split) for *_, split in accepted], np.int8),
    )
    new = RowArrays(
        pa.array([item.id for item in rows], pa.string()),
        np.array([LABEL2ID[item.label] for item in rows], np.int8),
        make_signatures([item.forms for item in rows], CONFIG),
    )
    templates = [form.template for form in known] + [item.forms.template for item in rows]
    graph, texts_of = build_graph(new, stored, lambda some: [templates[index] for index in some], CONFIG)
    stands = np.array([text_id(item.text) in decided for item in rows], bool)
    kept_out = np.array([item.id in stay_out for item in rows], bool)
    texts = [text for text, *_ in accepted] + [item.text for item in rows]
    grouped = GroupedRows(
        new,
        stored,
        graph,
        texts_of,
        lambda some: [wording(texts[at]) for at in some],
        stands,
        np.zeros(len(rows), bool),
        kept_out,
    )
    placement = assign_rows(grouped, config, RULE)
    naive = graph.components[np.concatenate([graph.old_nodes, graph.new_nodes])].tolist()
    made = Placed(rows, accepted, placement, stored, naive)
    names = [item.id for item in rows] + groups.dictionary.to_pylist()
    outcome = placement.outcome.tolist()
    made.accepted = [
        (rows[index], names[placement.groups[index]], SPLIT_CODES[placement.splits[index]])
        for index, code in enumerate(outcome)
        if code == ACCEPTED
    ]
    made.duplicates = [rows[index] for index, code in enumerate(outcome) if code == DUPLICATE]
    assert set(outcome) <= {ACCEPTED, DUPLICATE, QUARANTINED}, "every row has an outcome"
    assert sorted(item.row for item in placement.rejections) == [i for i, code in enumerate(outcome) if code == QUARANTINED]
    everything = [*known, *(item.forms for item, _, _ in made.accepted)]
    splits = np.array([*stored.splits, *(SPLIT_CODES.index(split) for *_, split in made.accepted)], np.int8)
    assert audit_texts(everything, splits, CONFIG).leaks == 0
    return made


def test_copies_are_duplicates_and_near_copies_share_a_group() -> None:
    rows = [row(f"$AAPL {LONG}"), row(f"RT @x: $AAPL {LONG} https://t.co/1"), row(f"$TSLA {LONG}!"), row(OTHER)]
    placement = placed(rows)
    assert placement.duplicates == [rows[1]]
    groups = {item.text: group for item, group, _ in placement.accepted}
    assert groups[rows[0].text] == groups[rows[2].text] == min(rows[0].id, rows[2].id)
    assert groups[OTHER] == text_id(OTHER)
    assert all(split == SPLIT_CODES[split_of_group(group, RULE)] for _, group, split in placement.accepted)


def test_the_first_of_several_copies_is_kept() -> None:
    rows = [row(OTHER, number=n) for n in (1, 2, 3)]
    placement = placed(rows)
    assert [item.number for item, _, _ in placement.accepted] == [1]
    assert [item.number for item in placement.duplicates] == [2, 3]


def test_contradictions_take_the_whole_group_out_and_show_both_sides() -> None:
    rows = [row(LONG, "Bullish", 1), row(LONG + "!", "Bearish", 2), row(LONG + "!!", "Bullish", 3), row(OTHER, "Neutral", 4)]
    placement = placed(rows)
    assert [item.number for item, _, _ in placement.accepted] == [4]
    assert placement.conflicts == 1
    reasons = {item.number: why for item, why in placement.quarantined}
    assert {why.reason for why in reasons.values()} == {"contradictory label"}
    assert "Bearish in desk row 2" in reasons[1].detail
    assert "Bullish in desk row 1" in reasons[2].detail
    assert "loading up" in reasons[2].detail


def test_rows_from_before_win() -> None:
    accepted = before((LONG, "Bullish", "g", "test"))
    same, against, near, near_against = row(LONG.upper()), row(LONG, "Bearish"), row(LONG + "!!"), row(LONG + " ok", "Bearish")
    assert placed([same], accepted).duplicates == [same]
    assert placed([near], accepted).accepted == [(near, "g", "test")]
    for wrong, config in ((against, CONFIG), (near_against, STRICT)):
        placement = placed([wrong], accepted, config=config)
        assert placement.quarantined[0][1].reason == "contradictory label"
        assert "Bullish, accepted before" in placement.quarantined[0][1].detail
    # an equal text stays a duplicate although its near twin contradicts it
    assert placed([same, near_against], accepted, config=STRICT).duplicates == [same]


def test_near_copies_that_differ_in_more_than_form_are_kept_together_whatever_their_labels() -> None:
    rows = [
        row(LONG),
        row(LONG + " not", "Bearish"),
        row(f"$TSLA {LONG} 🚀", "Neutral"),
        row(LONG.upper() + " - not!", "Bullish"),
    ]
    placement = placed(rows)
    assert [item.text for item, _, _ in placement.accepted] == [rows[0].text, rows[2].text]
    assert len({group for _, group, _ in placement.accepted}) == 1
    assert "- not!" in placement.quarantined[0][1].detail
    assert not placed(rows, config=STRICT).accepted
    kept = placed([rows[1]], before((LONG, "Bullish", "g", "test")))
    assert kept.accepted == [(rows[1], "g", "test")]
    assert kept.conflicts == 0


def chain(steps: int) -> list[str]:
    """Texts of which each is near the next, and the first is far from the last."""
    words = [f"word{index:02d}" for index in range(30 + 3 * steps)]
    return [" ".join(words[3 * step : 3 * step + 30]) for step in range(steps)]


def test_a_new_row_that_bridges_two_splits_is_quarantined() -> None:
    texts = chain(3)
    accepted = before((texts[0], "Bullish", "a", "train"), (texts[2], "Bullish", "b", "test"))
    placement = placed([row(texts[1])], accepted)
    assert [why.reason for _, why in placement.quarantined] == ["split conflict"]
    assert placement.quarantined[0][1].detail == "near duplicates in test (group b), train (group a)"


def test_a_chain_of_new_rows_between_two_splits_is_cut_once() -> None:
    texts = chain(6)
    accepted = before((texts[0], "Bullish", "a", "train"), (texts[5], "Bullish", "b", "test"))
    placement = placed([row(text, number=n) for n, text in enumerate(texts[1:5], start=1)], accepted)
    assert len(placement.quarantined) == 1
    assert {group for _, group, _ in placement.accepted} == {"a", "b"}
    assert len(placement.accepted) == 3


def test_two_groups_of_one_split_may_meet() -> None:
    texts = chain(3)
    accepted = before((texts[0], "Bullish", "b", "train"), (texts[2], "Bullish", "a", "train"))
    assert [item[1:] for item in placed([row(texts[1])], accepted).accepted] == [("a", "train")]


def test_what_hangs_on_a_bridge_alone_founds_its_own_group() -> None:
    texts = chain(3)
    lone = " ".join(f"word{index:02d}" for index in (*range(3, 33), 90, 91, 92))  # near the bridge, far from both ends
    assert texts[1] in lone
    accepted = before((texts[0], "Bullish", "a", "train"), (texts[2], "Bullish", "b", "test"))
    placement = placed([row(texts[1]), row(lone)], accepted)
    assert [item.text for item, why in placement.quarantined if why.reason == "split conflict"] == [texts[1]]
    assert [(item.text, group) for item, group, _ in placement.accepted] == [(lone, text_id(lone))]


def test_texts_quarantined_as_contradictory_stay_out() -> None:
    rows = [row(LONG), row(LONG + "!!"), row(OTHER)]
    placement = placed(rows, stay_out=[text_id(LONG)])
    assert [item.text for item, _ in placement.quarantined] == [LONG]
    assert "earlier ingestion" in placement.quarantined[0][1].detail
    assert {item.text: group for item, group, _ in placement.accepted}[LONG + "!!"] == text_id(LONG + "!!")


def test_a_label_that_a_person_decided_on_stands() -> None:
    rows = [row(LONG, "Bullish", 1), row(LONG + "!", "Bearish", 2), row(LONG + "!!", "Bullish", 3)]
    placement = placed(rows, decided=[text_id(LONG + "!")])
    assert [item.number for item, _, _ in placement.accepted] == [2]
    assert {item.number for item, _ in placement.quarantined} == {1, 3}
    all_of_them = placed(rows, decided=[text_id(item.text) for item in rows])
    assert [item.number for item, _, _ in all_of_them.accepted] == [1, 2, 3]
    assert len({group for _, group, _ in all_of_them.accepted}) == 1


def test_a_decision_lets_nothing_in_that_contradicts_it() -> None:
    accepted = before((LONG, "Bullish", "g", "train"))
    against = row(LONG + "!", "Bearish")
    assert not placed([against], accepted).accepted
    both = placed([row(LONG + "!!", "Bullish", 2), against], accepted, decided=[text_id(LONG + "!!")])
    assert [item.number for item, _, _ in both.accepted] == [2]
    assert [item.text for item, _ in both.quarantined] == [against.text]


def test_a_cut_copy_of_a_known_text_is_looked_at_anew() -> None:
    longer = LONG + " and then the whole sector went up with it"
    accepted = before((LONG, "Bullish", "a", "train"), (longer, "Bullish", "b", "test"))
    placement = placed([row(LONG + "…")], accepted)
    assert [why.reason for _, why in placement.quarantined] == ["split conflict"]
    against = before((LONG, "Bullish", "a", "train"), (longer, "Bearish", "b", "train"))
    assert [why.reason for _, why in placed([row(LONG + "…")], against, config=STRICT).quarantined] == ["contradictory label"]


def test_naive_groups_count_copies_conflicts_and_rows_from_before() -> None:
    accepted = before((LONG, "Bullish", "g", "train"), (OTHER, "Neutral", "h", "test"))
    groups = placed([row(LONG), row(LONG + "!!", "Bearish"), row("something else entirely, on its own")], accepted).naive_groups
    assert len(groups) == 5
    assert groups[0] == groups[2] == groups[3]
    assert len({groups[0], groups[1], groups[4]}) == 3


TEXTS = st.sampled_from([*chain(8), *(text + "!" for text in chain(8)), *("RT @x: " + text for text in chain(4)), LONG, OTHER])
BATCHES = st.lists(
    st.lists(st.tuples(TEXTS, st.sampled_from(["Bullish", "Bullish", "Bullish", "Bearish"])), max_size=12), min_size=1, max_size=4
)


@settings(deadline=None, max_examples=60)
@given(BATCHES)
def test_whatever_arrives_in_whatever_order_nothing_leaks_and_no_row_is_lost(batches: list[list[tuple[str, str]]]) -> None:
    known: list[tuple[str, str, str, str]] = []
    for batch in batches:
        placement = placed([row(text, label, number) for number, (text, label) in enumerate(batch)], before(*known))
        known += [(item.text, item.label, group, split) for item, group, split in placement.accepted]
    assert len({text_id(text) for text, *_ in known}) == len(known)


@pytest.mark.parametrize("step", [3])
def test_the_chain_is_what_the_tests_take_it_for(step: int) -> None:
    texts = chain(6)
    for left, right in pairwise(texts):
        assert near(left, right)
    assert not near(texts[0], texts[2])


def test_a_bridging_wave_is_placed_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finsent.data.dedup.grouping.CONFLICT_BATCH", 7)
    texts = chain(3)
    accepted = before((texts[0], "Bullish", "a", "train"), (texts[2], "Bullish", "b", "test"))
    wave = [row(f"{text} {number}", number=number) for number, text in enumerate(chain(12) * 3)]
    placement = placed(wave, accepted)
    assert placement.accepted
    assert {why.reason for _, why in placement.quarantined} == {"split conflict"}


def near(left: str, right: str) -> bool:
    groups = placed([row(left), row(right)]).naive_groups
    return groups[0] == groups[1]
