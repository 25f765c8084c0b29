"""Projections as declarations: what they name is there, and folds say what each event changes."""

from __future__ import annotations

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table

from jobquest.events import from_request
from jobquest.read.projection import Change, Highest, IfMissing, Latest, Lowest, Projection
from jobquest.read.projections import PROJECTIONS, USER_LISTS
from tests.samples import SAMPLES

named = pytest.mark.parametrize("projection", PROJECTIONS, ids=lambda one: one.name)


@named
def test_a_fold_changes_columns_of_its_table_only(projection: Projection) -> None:
    columns = set(projection.table.columns.keys())
    keys = set(projection.table.primary_key.columns.keys())
    for event_type, fold in projection.folds.items():
        event = from_request(event_type, "ada", SAMPLES[event_type])
        change = fold(event)
        assert change.adds or change.sets, event_type
        assert change.adds.keys() | change.sets.keys() <= columns - keys, event_type
        assert not change.adds.keys() & change.sets.keys(), event_type
        key = dict(
            zip(projection.table.primary_key.columns.keys(), projection.key(event), strict=True)
        )
        if projection.of_user:
            assert key["user_id"] == "ada", "only that user's rows are nobody else's to change"
        else:
            assert not change.sets, "several processes add to the row at once"


def test_rows_of_several_users_have_numbers_only() -> None:
    table = Table("last_of_day", MetaData(), Column("day", Integer, primary_key=True))
    Projection(table, lambda event: (1,), {})
    table.append_column(Column("last_user", String(128)))
    with pytest.raises(ValueError, match="last_of_day belong to several users"):
        Projection(table, lambda event: (1,), {})


@pytest.mark.parametrize("projection", USER_LISTS.values(), ids=lambda one: one.name)
def test_a_list_names_columns_of_its_table_only(projection: Projection) -> None:
    listed, columns = projection.listed, set(projection.table.columns.keys())
    assert listed
    assert projection.table.primary_key.columns.keys()[0] == "user_id"
    told = {listed.newest, *listed.flags.values()}
    if section := listed.section:
        told |= {section.name, section.note, section.xp, section.text, section.percent}
        told |= {section.badge and section.badge[0], *section.times.values()}
    assert told - {None} <= columns


def test_a_change_adds_and_sets_by_rules_that_do_not_depend_on_the_order_of_columns() -> None:
    changes = [
        Change(
            {"n": 2}, {"plain": 1, "most": Highest(5), "least": Lowest(5), "first": IfMissing(5)}
        ),
        Change(
            {"n": 3}, {"plain": 2, "most": Highest(4), "least": Lowest(4), "first": IfMissing(4)}
        ),
    ]
    row = {"n": 0, "plain": None, "most": None, "least": None, "first": None}
    for change in changes:
        change.apply_to(row)
    assert row == {"n": 5, "plain": 2, "most": 5, "least": 4, "first": 5}
    for times in ([10, 20], [20, 10], [10, 10]):
        for time_first in (True, False):
            moved = {"at": None, "status": None}
            for time in times:
                sets = [("at", Highest(time)), ("status", Latest(f"{time}", time, "at"))]
                Change(sets=dict(sets if time_first else sets[::-1])).apply_to(moved)
            assert moved == {"at": max(times), "status": str(max(times))}
