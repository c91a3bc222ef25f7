"""The words of a nested entry, and what it is refused for, row by row (facts 4.3)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.hardware.paging import VTD_SECOND
from pasidlab.kernel.iommu.domain import Domain
from pasidlab.kernel.iommu.uapi import VTD_FLAGS, GuestPasidBind
from pasidlab.kernel.iommu.vtd.capabilities import Capabilities
from pasidlab.kernel.iommu.vtd.nested import NESTED_CHECKS, NestedEntry
from pasidlab.kernel.pages import PageAllocator
from pasidlab.timeline import Timeline

UNIT = Capabilities(
    nesting=True,
    first_level=True,
    second_level=True,
    five_level=True,
    second_levels=4,
    snoop=False,
    lacks=frozenset(),
)
MEMORY = 1 << 20


@pytest.fixture
def domain():
    """A domain with one page mapped at 0x4000."""
    time = Timeline()
    memory = PhysicalMemory(time, "ram", MEMORY)
    domain = Domain(time, "domain", "vm1", 5, PageAllocator(time, "pages", memory, MEMORY), VTD_SECOND)
    domain.enable_nesting()
    domain.map(0x4000, 0x8000)
    return domain


def bind(**change):
    """A bind of host PASID 7 with the guest's table at 0x6000."""
    return GuestPasidBind(7, 0x6000, 1)._replace(**change)


def fields(words):
    """The fields of an entry that are not zero."""
    return {name: value for name, value in PASID_ENTRY.decode(words).items() if value}


def test_a_nested_entry_has_both_pointers_and_the_domains_id(domain):
    """PGTT=3: guest root in FLPTPTR, the domain's table in SLPTPTR; P is the only other bit."""
    assert fields(NestedEntry(bind(), domain, UNIT).words()) == {
        "P": 1,
        "PGTT": 3,
        "AW": 2,
        "SLPTPTR": domain.table.root,
        "FLPTPTR": 0x6000,
        "DID": 5,
    }


def test_page_walks_are_snooped_where_the_unit_can(domain):
    """PWSNP follows the capability, whatever the guest asked for."""
    assert fields(NestedEntry(bind(), domain, UNIT._replace(snoop=True)).words())["PWSNP"] == 1


@pytest.mark.parametrize("flag", ["SRE", "WPE", "EAFE"])
def test_what_the_guest_may_ask_for_is_programmed(domain, flag):
    """SRE, WPE and EAFE go into the entry, each by itself."""
    found = fields(NestedEntry(bind(vtd_flags=VTD_FLAGS[flag]), domain, UNIT).words())
    assert {name for name in ("SRE", "WPE", "EAFE") if name in found} == {flag}


def test_five_levels_are_flpm_1(domain):
    """57 bits on a unit and a processor with five levels; 48 bits leave FLPM at 0."""
    assert fields(NestedEntry(bind(addr_width=57), domain, UNIT).words())["FLPM"] == 1
    assert "FLPM" not in fields(NestedEntry(bind(), domain, UNIT).words())


def test_a_unit_of_three_levels_begins_one_table_lower(domain):
    """All of the domain lies below 512 GiB: the top table is skipped, AW says 39 bits."""
    top = domain.table.root
    found = fields(NestedEntry(bind(), domain, UNIT._replace(second_levels=3)).words())
    assert (found["AW"], found["SLPTPTR"]) == (1, domain._memory.load(top) & ~0xFFF)


NOTHING: Mapping[str, Any] = MappingProxyType({})


class Fault(NamedTuple):
    """How a row is broken: by the request, by the unit, by the domain, or by the entry that is there already."""

    errno: str = "EINVAL"
    request: Mapping[str, int] = NOTHING
    unit: Mapping[str, Any] = NOTHING
    nesting_mode: bool = True
    current: tuple[int, ...] = (0,) * 8


LACKING = {"lacks": frozenset({"SRE", "EAFE"})}
ROWS = {
    "nested translation": Fault(unit={"nesting": False}),
    "nesting mode": Fault(nesting_mode=False),
    "in use": Fault("EBUSY", current=PASID_ENTRY.encode(P=1, PGTT=3)),
    "5-level": Fault(request={"addr_width": 57}, unit={"five_level": False}),
    "width": Fault(request={"addr_width": 39}),
    "root": Fault(request={"gpgd": 1 << 48}),
    "SRE": Fault(request={"vtd_flags": VTD_FLAGS["SRE"]}, unit=LACKING),
    "EAFE": Fault(request={"vtd_flags": VTD_FLAGS["EAFE"]}, unit=LACKING),
    "memory type": Fault(request={"vtd_flags": VTD_FLAGS["CD"]}),
    "second level": Fault(unit={"second_levels": 0}),
}


def broken(domain, *names):
    """A request that breaks these rows at once."""
    data, unit, current = bind(), UNIT, Fault().current
    for fault in map(ROWS.__getitem__, names):
        flags = data.vtd_flags | fault.request.get("vtd_flags", 0)
        data = data._replace(**{**fault.request, "vtd_flags": flags})
        unit = unit._replace(**fault.unit)
        domain.nesting = domain.nesting and fault.nesting_mode
        current = fault.current if any(fault.current) else current
    return NestedEntry(data, domain, unit, current)


def test_the_rows_are_the_documented_ones():
    """In this order."""
    assert [(check.name, check.errno) for check in NESTED_CHECKS] == [(name, row.errno) for name, row in ROWS.items()]


@pytest.mark.parametrize("name", ROWS)
def test_each_row_alone_is_refused_with_its_errno(domain, name):
    """And nothing else is wrong with the request."""
    with pytest.raises(KernelError) as refused:
        broken(domain, name).words()
    assert refused.value.name == ROWS[name].errno
    assert [check.name for check in NESTED_CHECKS if check.broken(broken(domain, name))] == [name]


PAIRS = [
    (first, second)
    for at, first in enumerate(ROWS)
    for second in list(ROWS)[at + 1 :]
    if {first, second} != {"5-level", "width"}
]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_of_two_rows_the_earlier_one_answers(domain, first, second):
    """Every pair that can be wrong at once."""
    request = broken(domain, first, second)
    words = next(check.broken(request) for check in NESTED_CHECKS if check.name == first)
    with pytest.raises(KernelError) as refused:
        request.words()
    assert refused.value.reason == words


@pytest.mark.parametrize("flag", ["PCD", "PWT", "EMTE", "CD"])
def test_memory_types_cannot_be_asked_for(domain, flag):
    """Each of the four flags by itself, named in the refusal."""
    with pytest.raises(KernelError, match=f"must not ask for {flag}"):
        NestedEntry(bind(vtd_flags=VTD_FLAGS[flag]), domain, UNIT).words()


@pytest.mark.parametrize("root", [0x6008, 1 << 48, 1 << 63])
def test_a_root_must_be_a_page_that_the_second_level_can_reach(domain, root):
    """The first address beyond 48 bits is refused, the last page below them is not."""
    with pytest.raises(KernelError, match="a page below 2"):
        NestedEntry(bind(gpgd=root), domain, UNIT).words()
    assert fields(NestedEntry(bind(gpgd=(1 << 48) - 4096), domain, UNIT).words())["FLPTPTR"] == (1 << 48) - 4096


def test_an_entry_of_another_kind_may_be_in_the_place(domain):
    """A default PASID's second-level entry is replaced; only a nested one is in use."""
    for words in (PASID_ENTRY.encode(P=1, PGTT=2), PASID_ENTRY.encode(P=0, PGTT=3)):
        check = next(check for check in NESTED_CHECKS if check.name == "in use")
        assert check.broken(NestedEntry(bind(), domain, UNIT, words)) == ""


def test_a_table_with_addresses_beyond_a_small_unit_does_not_fit(domain):
    """Nothing below the first entry of the top table: there is no table to begin with."""
    domain.unmap(0x4000)
    domain.table.clear()
    domain.map(1 << 39, 0x8000)
    assert domain.fit(3) is None
    assert domain.fit(4).root == domain.table.root
