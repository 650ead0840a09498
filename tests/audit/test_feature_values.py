"""Values of one feature of a trace, and the strongest of a token, against all values of the trace."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from steerkit.audit import Query, Store, append_turn, feature_of, find, strongest_at, values_of
from steerkit.audit.records.tables import watched_and_top
from steerkit.errors import AuditError
from steerkit.sites import Feature, Site
from steerkit.types import TopK, Trace
from tests.audit.example import context, started, turn


def top(site: Site, start: int, rows: Sequence[Sequence[tuple[int, float]]]) -> TopK:
    """A block of features, strongest first; 0 fills it."""
    flat = [pair for row in rows for pair in row]
    index = struct.pack(f"<{len(flat)}H", *(index for index, _ in flat))
    value = struct.pack(f"<{len(flat)}e", *(value for _, value in flat))
    return TopK(site, start, len(rows), len(rows[0]), index, value)


TRACE = Trace(
    2,
    {"p.f": (0.5, -1.0, 3.0), "q.f": (0.25, 2.0, 1.0), "q.probe": (-4.0, 0.0, 4.0)},
    {"p.f": Feature(1, 7), "q.f": Feature(Site(2, "resid_post"), 9)},
    (
        top(Site(1), 2, [[(5, 3.0), (7, 0.5)], [(5, 2.0), (6, 1.0)], [(7, 3.0), (0, 0.0)]]),
        top(Site(3), 3, [[(7, 1.5), (2, 1.0)], [(8, 2.5), (7, 0.25)]]),
    ),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("p.f", {2: 0.5, 3: -1.0, 4: 3.0}),
        ("f", {2: 0.5, 3: 2.0, 4: 3.0}),  # of two policies
        ("probe", {2: -4.0, 3: 0.0, 4: 4.0}),
        ("1:7", {2: 0.5, 3: -1.0, 4: 3.0}),  # watched, which is more than the strongest say
        ("1:5", {2: 3.0, 3: 2.0}),
        ("attn_out.3:7", {3: 1.5, 4: 0.25}),
        ("resid_post.2:9", {2: 0.25, 3: 2.0, 4: 1.0}),
        ("1:0", {}),  # 0 fills a row
        ("1:70000", {}),
        ("nobody", {}),
        ("x.1:2", {}),
        ("", {}),
    ],
)
def test_values_of_a_name(name: str, expected: dict[int, float]) -> None:
    """By position, for every form of a name."""
    assert values_of(TRACE, name) == expected


def test_every_value_of_a_trace_is_found_by_its_feature() -> None:
    """The flat rows of the same trace are the control."""
    for row in watched_and_top(TRACE):
        if row.name is None:
            assert values_of(TRACE, f"{row.site}:{row.index_in_layer}")[row.position] == row.value
    assert feature_of("3:72") == Feature(3, 72)
    assert feature_of("3:x") is None


def test_the_strongest_of_a_token() -> None:
    """By site, strongest first, without what fills a row."""
    found = {site: [(one.feature.index, one.value) for one in some] for site, some in strongest_at(TRACE, 4).items()}
    assert found == {Site(1): [(7, 3.0)], Site(3): [(8, 2.5), (7, 0.25)]}
    assert strongest_at(TRACE, 99) == {}


def test_a_query_asks_for_a_height(tmp_path: object) -> None:
    """Above a number means strictly, of a reading or a value; without a feature, or beyond numbers, it is refused."""
    store: Store = started(tmp_path / "audit.db")  # type: ignore[operator]
    append_turn(store, turn(), context())
    asked = [next(find(store, Query(feature="f", above=above)), None) for above in (0.49, 0.5)]
    assert [one is not None for one in asked] == [True, False]
    for wrong in (Query, lambda **given: Query(feature="f", **given)):
        with pytest.raises(AuditError, match="expected a finite number of a feature"):
            wrong(above=float("nan") if wrong is not Query else 1.0)
    store.close()
