"""While translation is off memory requests pass as they are, and everything that is about translation is refused."""

from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.iommu.vtd.registers import GCMD
from pasidlab.hardware.pcie import Access, DmaRequest, PageGroupResponse, PageRequest, RequestKind, ResponseCode
from tests.kernel.iommu.vtd.conftest import RID, Bench


def test_what_a_unit_does_without_translation():
    """TES=0: memory requests are not translated, ATS and page requests are refused, nothing is recorded."""
    bench = Bench(ats=True)
    bench.unit.mmio_write(GCMD, 0, 4)
    request = DmaRequest(RID, 0x5000, Access.WRITE, 7)
    assert bench.unit.translate(request) == 0x5000
    assert isinstance(bench.unit.complete(request._replace(kind=RequestKind.TRANSLATION)), Fault)
    assert isinstance(bench.unit.translate(request._replace(kind=RequestKind.TRANSLATED)), Fault)
    assert bench.unit.faults.records() == []
    bench.unit.page_request(PageRequest(RID, 7, 0x5000, read=True, write=False, group=3))
    assert bench.function.told == [PageGroupResponse(RID, 7, 3, ResponseCode.INVALID)]
    assert bench.unit.page_queue.requests() == []
