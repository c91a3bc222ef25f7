"""Random changes to tables behind a unit that keeps what it reads, with and without the commands that they need.

With them every answer is the tables' own. Without them an answer may be stale, and then the checker finds a line that
disagrees: nothing that a unit keeps is left out of what it lists.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.hardware.pcie import Access
from tests.hardware.iommu.smmuv3.by_hand import IOVA, PAGE, PASID, RID, Bench, command

VMID = 7
ASIDS = (5, 6, 7, 8)
"""PASID has 5 or 7, its neighbour 6 or 8: contexts that differ must not share an ASID, hardware may mix them up."""
PAGES = (PAGE, 0x41_0000, 0x42_0000)
ADDRESSES = (IOVA, IOVA + 0x1000)
SECOND_PASID = PASID + 1


def move_page(bench, data):
    """Another page, or none, behind an address."""
    address, page = data.draw(st.sampled_from(ADDRESSES)), data.draw(st.sampled_from(PAGES))
    bench.first(address, page, AP=data.draw(st.sampled_from([1, 3])), TYPE=data.draw(st.sampled_from([3, 3, 0])))
    return [command("tlbi_nh_va", VMID=VMID, ASID=asid, addr=address & ~0xFFF) for asid in ASIDS]


def change_context(bench, data):
    """Another ASID, no access, or no context descriptor at all; translations of both ASIDs go."""
    pasid = data.draw(st.sampled_from([PASID, SECOND_PASID]))
    asid = data.draw(st.sampled_from(ASIDS[pasid == SECOND_PASID :: 2]))
    bench.cd(pasid, ASID=asid, V=data.draw(st.sampled_from([1, 1, 0])), EPD0=data.draw(st.sampled_from([0, 0, 1])))
    flushes = [command("tlbi_nh_asid", VMID=VMID, ASID=one) for one in ASIDS]
    return [command("cfgi_cd", SID=RID, SSID=pasid), *flushes]


def change_stream(bench, data):
    """Both stages, one, or nothing that is valid."""
    kind = data.draw(st.sampled_from(["nested", "first", "nothing"]))
    if kind == "nested":
        bench.stage_2(7)
    else:
        bench.ste(V=int(kind == "first"))
    return [command("cfgi_ste", SID=RID), command("tlbi_s12_vmall", VMID=VMID)]


def move_stage_2(bench, data):
    """Another place, or none, behind an intermediate page."""
    page = data.draw(st.sampled_from(PAGES))
    bench.second(page, data.draw(st.sampled_from(PAGES)), TYPE=data.draw(st.sampled_from([3, 3, 0])))
    return [command("tlbi_s2_ipa", VMID=VMID, IPA=page), command("tlbi_nh_all", VMID=VMID)]


CHANGES = (move_page, change_context, change_stream, move_stage_2)


def start():
    """Both stages, two contexts, two addresses."""
    bench = Bench(caches=True)
    bench.nested()
    bench.cd(SECOND_PASID, ASID=6)
    bench.first(ADDRESSES[1])
    for page in PAGES:
        bench.second(page)
    return bench


def questions(data):
    """A request of the device."""
    return (
        data.draw(st.sampled_from([Access.READ, Access.WRITE])),
        data.draw(st.sampled_from(ADDRESSES)),
        data.draw(st.sampled_from([PASID, SECOND_PASID])),
    )


def wrong(bench):
    """Whether a cached line disagrees with the tables."""
    return any(bench.unit.cache_lines(bench.unit.entries(RID), every=False))


@settings(max_examples=25)
@given(data=st.data())
def test_with_its_commands_every_change_is_seen(data):
    """All answers are those of the tables alone, and no line disagrees."""
    bench = start()
    for _ in range(12):
        bench.ask(*questions(data))
        bench.tell(*data.draw(st.sampled_from(CHANGES))(bench, data))
        asked = questions(data)
        assert bench.ask(*asked) == bench.uncached(*asked)
        assert not wrong(bench)


@settings(max_examples=25)
@given(data=st.data())
def test_every_stale_answer_comes_from_a_line_that_is_listed(data):
    """Some commands are forgotten: an answer that is not the tables' own has its wrong line."""
    bench = start()
    for _ in range(12):
        bench.ask(*questions(data))
        commands = data.draw(st.sampled_from(CHANGES))(bench, data)
        bench.tell(*[words for words in commands if data.draw(st.booleans())])
        asked = questions(data)
        before = wrong(bench)
        stale = bench.ask(*asked) != bench.uncached(*asked)
        assert before or not stale
