"""Deviations about set-private IDs (SPIDs): the guest's numbers."""

from typing import Final

from pasidlab.deviations.row import Deviation

__all__ = ["SPIDS"]

_CORE: Final = "pasidlab.kernel.ioasid.core:IoasidCore"
_BINDINGS: Final = "pasidlab.kernel.iommu.bindings:Bindings"
_SVM: Final = "pasidlab.kernel.iommu.vtd.svm:Svm"

SPIDS: Final = (
    Deviation(
        name="spid-again",
        subject="a second SPID for an ID that has one",
        code="accepted: BIND is sent without an UNBIND before it",
        documents="not said; to expect: one SPID for an ID",
        model="-EINVAL",
        source="1.5",
        breaks=(7, 9),
        site=f"{_CORE}._refuse_second_spid",
    ),
    Deviation(
        name="spid-twin-reference",
        subject="the test whether a SPID is in use",
        code="v3: the look-up took a reference, so each refused duplicate pinned the other ID for ever; V4 mended it",
        documents="not said; to expect: a refused call changes nothing",
        model="no reference is taken",
        source="10 no. 5",
        breaks=(3,),
        site=f"{_CORE}._refuse_twin",
    ),
    Deviation(
        name="spid-result-ignored",
        subject="a duplicate SPID at bind",
        code="the driver ignores the refusal: no BIND is sent, and ENQCMD goes on reaching the first address space",
        documents="review: the result must be handled",
        model="the bind is refused, and everything it did is taken back",
        source="10 no. 6",
        site=f"{_SVM}._announce",
    ),
    Deviation(
        name="spid-after-data",
        subject="the order in which the last unbind lets go",
        code="v2: the SPID was reset when the private data was gone; v3 made detach symmetric",
        documents="review: fragile; V4: SPID, data, reference",
        model="V4",
        source="4.4, 10 no. 7",
        site=f"{_BINDINGS}._end",
    ),
    Deviation(
        name="attach-any-owner",
        subject="who may attach and detach SPID and data",
        code="whoever knows the number: the functions have no argument for the set",
        documents="v2, V4: the prototypes have one",
        model="as the code",
        source="1.5",
        lacks="these calls do not name a set",
    ),
)
"""The guest's numbers."""
