"""Page tables against a plain dict, and against both readers of their bits: the CPU's walk and the IOMMU's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.vtd.caches import PasidLine
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.rules import VtdRules
from pasidlab.hardware.iommu.vtd.walk import VtdWalker
from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.hardware.mmu import PageFault, resolve
from pasidlab.hardware.paging import FORMATS, VTD_SECOND, X86
from pasidlab.hardware.pcie import Access
from pasidlab.kernel.pages import PageAllocator
from pasidlab.kernel.pagetable import Mapping, PageTable
from pasidlab.timeline import Timeline

SIZE = 16 << 20


class Bench:
    """A page table in memory of its own, and the silicon that reads it."""

    def __init__(self, form):
        self.time = Timeline()
        self.memory = PhysicalMemory(self.time, "ram", SIZE)
        self.pages = PageAllocator(self.time, "pages", self.memory, SIZE)
        self.table = PageTable(self.time, "table", self.pages, form)
        self.walker = VtdWalker(self.memory, VtdRules(VtdIdentity()))

    def iommu(self, address, access):
        """Where the IOMMU arrives, or ``None``."""
        pointer = (
            {"FLPTPTR": self.table.root, "PGTT": 1}
            if self.table.form is X86
            else {"SLPTPTR": self.table.root, "PGTT": 2}
        )
        words = PASID_ENTRY.encode(P=1, AW=2, DID=5, PWSNP=1, **pointer)
        outcome = self.walker.resolve(PasidLine.of(words, 1), address, access)
        return outcome if outcome >= 0 else None

    def cpu(self, address, write):
        """Where the CPU arrives, or ``None``."""
        try:
            return resolve(self.memory, self.table.root, address, write=write, form=self.table.form)
        except PageFault:
            return None


# few enough values of each index that tables are shared, and both ends of the space
pages = st.builds(
    lambda a, b, c, d: a << 39 | b << 30 | c << 21 | d << 12,
    *(st.sampled_from((0, 1, 255)), st.sampled_from((0, 511)), st.sampled_from((0, 7)), st.sampled_from((0, 3, 511))),
)
frames = st.integers(1, 200).map(lambda frame: frame << 12)
steps = st.lists(
    st.tuples(st.just("map"), pages, frames, st.booleans()) | st.tuples(st.just("unmap"), pages), max_size=25
)


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@settings(deadline=None, max_examples=60)
@given(steps=steps)
def test_a_page_table_is_a_dict_that_silicon_can_read(form, steps):
    """Whatever is mapped and unmapped: builder, CPU and IOMMU agree with a dict about every page and permission."""
    bench, refusals = Bench(form), []
    twin: dict[int, tuple[int, bool]] = {}
    for what, virtual, *rest in steps:
        try:
            if what == "map":
                bench.table.map(virtual, rest[0], writable=rest[1])
            else:
                assert bench.table.unmap(virtual) == twin.pop(virtual)[0]
        except KernelError as error:
            refusals.append((error.name, what, virtual in twin))
        except KeyError:
            pytest.fail("something was unmapped that the dict does not have")
        else:
            if what == "map":
                twin[virtual] = tuple(rest)
    assert set(refusals) <= {("EEXIST", "map", True), ("ENOENT", "unmap", False)}
    assert list(bench.table.mappings()) == [Mapping(at, *twin[at]) for at in sorted(twin)]
    for virtual in {step[1] for step in steps}:
        physical, writable = twin.get(virtual, (None, False))
        read = physical + 0x123 if physical is not None else None
        assert bench.table.find(virtual) == physical
        assert bench.cpu(virtual + 0x123, False) == read
        assert bench.cpu(virtual + 0x123, True) == (read if writable else None)
        if form in (X86, VTD_SECOND):
            assert bench.iommu(virtual + 0x123, Access.READ) == read
            assert bench.iommu(virtual + 0x123, Access.WRITE) == (read if writable else None)


def test_destroying_a_table_frees_every_page_of_it_and_none_that_it_maps():
    """Tables come and go with the whole; the pages behind belong to somebody else."""
    bench = Bench(X86)
    mapped = [bench.pages.alloc() for _ in range(3)]
    for number, page in enumerate(mapped):
        bench.table.map(number << 39 | 0x1000, page)
    assert bench.pages.used == 3 + 1 + 3 * 3
    bench.table.destroy()
    assert bench.pages.used == 3
    assert all(bench.pages.is_used(page) for page in mapped)


def test_mapping_without_memory_for_a_table_is_enomem_and_maps_nothing():
    """A walk that cannot be built ends in a refusal, and the page stays unmapped."""
    bench = Bench(X86)
    while bench.pages.available > 2:
        bench.pages.alloc()
    with pytest.raises(KernelError) as refused:
        bench.table.map(0x1000, 0x5000)
    assert refused.value.name == "ENOMEM"
    assert list(bench.table.mappings()) == []
