"""Intel VT-d: invalidation descriptors, page requests and fault records, bit by bit.

Models what travels through the unit's queues and fault records. Follows Linux 6.1 ``drivers/iommu/intel/iommu.h``
(QI_*, dma_frcd_*), ``dmar.c`` (qi_flush_*), ``svm.c`` (struct page_req_dsc) and intel/qemu-dcp. The type of a
descriptor is split: ``TYPE`` in bits 3:0 and ``TYPE_HI`` in bits 11:9, zero in every listed type. UNVERIFIED: bit 92
of a fault record (the facts have it from one source comment; VBox/iommu-intel.h and the specification's section
11.4.7.6 agree with it), and the page stream response (only its type code is known; it is not part of scalable mode).
"""

from __future__ import annotations

from pasidlab.hardware.bits import Field, Layout

__all__ = [
    "DESCRIPTORS",
    "FRCD",
    "PAGE_REQUEST",
    "QI_CONTEXT_CACHE",
    "QI_DEV_TLB",
    "QI_IEC",
    "QI_IOTLB",
    "QI_PAGE_GROUP_RESP",
    "QI_PAGE_STREAM_RESP",
    "QI_PASID_CACHE",
    "QI_PASID_DEV_TLB",
    "QI_PIOTLB",
    "QI_WAIT",
]

_QI = "Linux 6.1 drivers/iommu/intel/iommu.h QI_*, dmar.c qi_flush_*; intel/qemu-dcp intel_iommu_internal.h"


def _type(code: int) -> Field:
    return Field("TYPE", 0, 3, f"descriptor type, {code} here")


_TYPE_HI = Field("TYPE_HI", 9, 11, "upper bits of the type, 0")

QI_CONTEXT_CACHE = Layout(
    "vtd_qi_context_cache",
    16,
    (
        _type(1),
        Field("G", 4, 5, "1 everything, 2 a domain, 3 a device"),
        _TYPE_HI,
        Field("DID", 16, 31, "domain id"),
        Field("SID", 32, 47, "requester id (G=3)"),
        Field("FM", 48, 49, "mask over the function number (G=3)"),
    ),
    _QI,
)

QI_IOTLB = Layout(
    "vtd_qi_iotlb",
    16,
    (
        _type(2),
        Field("G", 4, 5, "1 everything, 2 a domain, 3 pages of a domain"),
        Field("DW", 6, 6, "drain writes"),
        Field("DR", 7, 7, "drain reads"),
        _TYPE_HI,
        Field("DID", 16, 31, "domain id"),
        Field("AM", 64, 69, "2^AM pages (G=3)"),
        Field("IH", 70, 70, "only leaves changed"),
        Field("ADDR", 76, 127, "first page (G=3)", 12),
    ),
    _QI,
)

QI_DEV_TLB = Layout(
    "vtd_qi_dev_tlb",
    16,
    (
        _type(3),
        _TYPE_HI,
        Field("PFSID_LO", 12, 15, "physical function's requester id, low bits"),
        Field("MIP", 16, 20, "most invalidations in flight"),
        Field("SID", 32, 47, "requester id of the device"),
        Field("PFSID_HI", 52, 63, "physical function's requester id, high bits"),
        Field("S", 64, 64, "the range is encoded in the low ones of ADDR"),
        Field("ADDR", 76, 127, "address, with the range", 12),
    ),
    _QI,
)

QI_IEC = Layout(
    "vtd_qi_iec",
    16,
    (
        _type(4),
        Field("G", 4, 4, "0 everything, 1 by index"),
        _TYPE_HI,
        Field("IM", 27, 31, "mask over the index"),
        Field("IIDX", 32, 47, "interrupt index"),
    ),
    _QI,
)

QI_WAIT = Layout(
    "vtd_qi_wait",
    16,
    (
        _type(5),
        Field("IF", 4, 4, "raise the completion interrupt"),
        Field("SW", 5, 5, "write STDATA to STADDR"),
        Field("FN", 6, 6, "fence: later descriptors wait for earlier ones"),
        Field("PD", 7, 7, "drain page requests first"),
        _TYPE_HI,
        Field("STDATA", 32, 63, "value that says: done"),
        Field("STADDR", 66, 127, "where it is written", 2),
    ),
    _QI,
)

QI_PIOTLB = Layout(
    "vtd_qi_piotlb",
    16,
    (
        _type(6),
        Field("G", 4, 5, "2 all pages of a PASID, 3 some pages of a PASID"),
        _TYPE_HI,
        Field("DID", 16, 31, "domain id"),
        Field("PASID", 32, 51, "PASID"),
        Field("AM", 64, 69, "2^AM pages (G=3)"),
        Field("IH", 70, 70, "only leaves changed"),
        Field("ADDR", 76, 127, "first page (G=3)", 12),
    ),
    _QI,
)

QI_PASID_CACHE = Layout(
    "vtd_qi_pasid_cache",
    16,
    (
        _type(7),
        Field("G", 4, 5, "0 all PASIDs of a domain, 1 one PASID of a domain, 3 everything"),
        _TYPE_HI,
        Field("DID", 16, 31, "domain id"),
        Field("PASID", 32, 51, "PASID (G=1)"),
    ),
    _QI,
)

QI_PASID_DEV_TLB = Layout(
    "vtd_qi_pasid_dev_tlb",
    16,
    (
        _type(8),
        Field("MIP", 4, 8, "most invalidations in flight"),
        _TYPE_HI,
        Field("PFSID_LO", 12, 15, "physical function's requester id, low bits"),
        Field("SID", 16, 31, "requester id of the device"),
        Field("PASID", 32, 51, "PASID"),
        Field("PFSID_HI", 52, 63, "physical function's requester id, high bits"),
        Field("G", 64, 64, "every PASID"),
        Field("S", 75, 75, "the range is encoded in the low ones of ADDR"),
        Field("ADDR", 76, 127, "address, with the range", 12),
    ),
    _QI,
)

QI_PAGE_GROUP_RESP = Layout(
    "vtd_qi_page_group_resp",
    32,
    (
        _type(9),
        Field("PP", 4, 4, "PASID present"),
        Field("PDP", 5, 5, "private data present"),
        _TYPE_HI,
        Field("RC", 12, 15, "0 success, 1 invalid request, 15 failure"),
        Field("RID", 16, 31, "requester id"),
        Field("PASID", 32, 51, "PASID"),
        Field("LPIG", 66, 66, "last page of its group"),
        Field("PRGI", 67, 75, "page request group"),
        Field("PRIV0", 128, 191, "private data, first word"),
        Field("PRIV1", 192, 255, "private data, second word"),
    ),
    f"{_QI}; qemu page-group-response patch",
)

QI_PAGE_STREAM_RESP = Layout(
    "vtd_qi_page_stream_resp",
    16,
    (_type(10),),
    "Linux up to 5.x QI_PSTRM_RESP_TYPE",
    "UNVERIFIED: before scalable mode; only the type code is known",
)

DESCRIPTORS: tuple[tuple[int, Layout, str], ...] = (
    (1, QI_CONTEXT_CACHE, "context cache"),
    (2, QI_IOTLB, "IOTLB"),
    (3, QI_DEV_TLB, "device TLB"),
    (4, QI_IEC, "interrupt entry cache"),
    (5, QI_WAIT, "wait"),
    (6, QI_PIOTLB, "PASID IOTLB"),
    (7, QI_PASID_CACHE, "PASID cache"),
    (8, QI_PASID_DEV_TLB, "PASID device TLB"),
    (9, QI_PAGE_GROUP_RESP, "page group response"),
)
"""Type code, layout and name of each descriptor that a unit in scalable mode takes."""

PAGE_REQUEST = Layout(
    "vtd_page_request_desc",
    32,
    (
        Field("type", 0, 7, "1 is a page request"),
        Field("PP", 8, 8, "PASID present"),
        Field("PDP", 9, 9, "private data present"),
        Field("RID", 16, 31, "requester id"),
        Field("PASID", 32, 51, "PASID"),
        Field("EXE", 52, 52, "asks for execution"),
        Field("PM", 53, 53, "asks in privileged mode"),
        Field("R", 64, 64, "asks for reading"),
        Field("W", 65, 65, "asks for writing"),
        Field("LPIG", 66, 66, "last page of its group"),
        Field("PRGI", 67, 75, "page request group"),
        Field("ADDR", 76, 127, "page", 12),
        Field("PRIV0", 128, 191, "private data, first word"),
        Field("PRIV1", 192, 255, "private data, second word"),
    ),
    "Linux 6.1 drivers/iommu/intel/svm.c struct page_req_dsc",
    "LPIG=1 with R=W=0 is a stop marker: no answer",
)

FRCD = Layout(
    "vtd_frcd",
    16,
    (
        Field("FI", 12, 63, "page of the blocked request", 12),
        Field("SID", 64, 79, "requester id"),
        Field("T2", 92, 92, "second bit of the request type: 1 page request or atomic (UNVERIFIED)"),
        Field("PRIV", 93, 93, "privileged request"),
        Field("EXE", 94, 94, "execute request"),
        Field("PP", 95, 95, "the request carried a PASID"),
        Field("FR", 96, 103, "fault reason"),
        Field("PV", 104, 123, "PASID"),
        Field("AT", 124, 125, "0 untranslated, 1 translation request, 2 translated"),
        Field("T1", 126, 126, "request type: 0 write or page request, 1 read or atomic"),
        Field("F", 127, 127, "record in use; write 1 to clear"),
    ),
    "Linux 6.1 drivers/iommu/intel/iommu.h dma_frcd_*; microsoft/openvmm VT-d crate",
    "record n at 16*(CAP.FRO+n)",
)
