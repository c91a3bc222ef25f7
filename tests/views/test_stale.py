"""What a cache says is compared with what memory says now."""

from __future__ import annotations

from pasidlab.hardware.layouts.vtd import FL_ENTRY, PASID_ENTRY
from pasidlab.views.explain import explain
from pasidlab.views.stale import stale_stops
from pasidlab.views.walk_graph import walk_graph
from pasidlab.views.walk_table import walk_table
from tests.hardware.iommu.vtd.by_hand import ENTRY_AT, FIRST, Bench


def warmed() -> Bench:
    """A unit that has carried out a request and kept what it read."""
    bench = Bench(caches=True)
    bench.entry(PGTT=1)
    bench.first_level()
    bench.unit.translate(bench.request())
    return bench


def test_fresh_caches_are_not_stale() -> None:
    """Accessed and dirty bits, which the unit set after it had read an entry, do not count."""
    bench = warmed()
    bench.memory.store(bench.first_at(2), bench.memory.load(bench.first_at(2)) ^ FL_ENTRY["A"].mask)
    assert stale_stops(bench.unit.walk(bench.request())) == frozenset()
    assert stale_stops(bench.unit.walk(bench.request(address=FIRST))) == frozenset()


def test_a_changed_entry_makes_its_line_stale() -> None:
    """The PASID entry was cleared in memory, and nobody was told: its cache, and the IOTLB, still answer."""
    bench = warmed()
    bench.memory.store(ENTRY_AT, 0)
    walk = bench.unit.walk(bench.request())
    names = [walk.stops[at].cache for at in sorted(stale_stops(walk))]
    assert walk.address is not None
    assert names == ["PASID cache", "IOTLB"]
    figure = walk_graph(walk, stale=stale_stops(walk))
    assert (figure.node("entry").state, figure.node("entry").word) == ("pending", "stale")
    assert figure.node("context").state == "cached"
    assert walk_table(walk, stale_stops(walk)).rows[1].cells[-1] == "PASID cache, stale"
    assert "is not what memory says now" in " ".join(explain(walk, stale_stops(walk)).sentences)


def test_tables_only_is_never_stale() -> None:
    """Without caches there is nothing that could be."""
    bench = warmed()
    bench.memory.store_words(ENTRY_AT, PASID_ENTRY.encode(P=0))
    walk = bench.unit.walk(bench.request(), caches=False)
    assert stale_stops(walk) == frozenset()
    assert walk.fault is not None
