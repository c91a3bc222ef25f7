"""ATS: translation requests, translated requests, split stage; what of their errors is recorded."""

from __future__ import annotations

import pytest

from pasidlab.hardware.iommu.contract import Fault
from pasidlab.hardware.iommu.smmuv3.register_file import CR0, CR2
from pasidlab.hardware.pcie import Access, InvalidateRequest, RequestKind
from tests.hardware.iommu.smmuv3.by_hand import BEYOND, IOVA, NEIGHBOUR, ON, PAGE, PASID, RID, Bench, command

ATSCHK = 1 << 4


@pytest.fixture
def bench():
    """Stage 1, with a page."""
    found = Bench()
    found.cd()
    found.first()
    return found


def complete(bench, *args, **kwargs):
    """The answer to a translation request: page and rights, or the name of the event."""
    answer = bench.unit.complete(bench.request(*args, **kwargs)._replace(kind=RequestKind.TRANSLATION))
    if isinstance(answer, Fault):
        return answer.name
    rights = zip("rwx", (answer.read, answer.write, answer.execute), strict=True)
    return answer.address, "".join(letter for letter, granted in rights if granted)


def translated(bench, address=PAGE, access=Access.READ):
    """The answer to a translated request."""
    answer = bench.unit.translate(bench.request(access, address, None)._replace(kind=RequestKind.TRANSLATED))
    return answer.name if isinstance(answer, Fault) else answer


@pytest.mark.parametrize(
    ("values", "access", "rights"),
    [
        ({}, Access.READ, "r"),
        ({}, Access.WRITE, "rw"),
        ({}, Access.EXECUTE, "rx"),
        ({"AP": 3}, Access.WRITE, "r"),
        ({"UXN": 1}, Access.EXECUTE, "r"),
    ],
)
def test_a_translation_request_is_given_the_rights_that_there_are(bench, values, access, rights):
    """Of those that it asks for: reading always, writing without NW, execution."""
    bench.first(**values)
    assert complete(bench, access) == (PAGE, rights)


@pytest.mark.parametrize(
    ("values", "access"),
    [
        ({"TYPE": 0}, Access.READ),
        ({"AF": 0}, Access.READ),
        ({"AP": 0}, Access.WRITE),
        ({"AP": 0}, Access.EXECUTE),
        ({"AP": 2}, Access.WRITE),
    ],
)
def test_a_page_that_is_not_there_is_no_error(bench, values, access):
    """Success without rights, nothing recorded; execution alone cannot be told."""
    bench.first(**values)
    assert complete(bench, access)[1] == ""
    assert bench.events() == []


def test_a_translation_request_is_never_held(bench):
    """CD.S is for transactions."""
    bench.cd(S=1)
    bench.first(TYPE=0)
    assert complete(bench)[1] == ""
    assert len(bench.unit.stalls) == 0


@pytest.mark.parametrize(
    ("ste", "answer", "records"),
    [
        ({"Config": 0}, "ABORT", 0),
        ({"Config": 4}, "F_BAD_ATS_TREQ", 1),
        ({"EATS": 0}, "F_BAD_ATS_TREQ", 1),
        ({"EATS": 3}, "F_BAD_ATS_TREQ", 1),
        ({"V": 0}, "C_BAD_STE", 0),
        ({"S1CDMax": 4}, "C_BAD_SUBSTREAMID", 0),
        ({"S1ContextPtr": BEYOND}, "F_CD_FETCH", 0),
    ],
)
def test_what_is_refused_and_what_of_it_is_recorded(bench, ste, answer, records):
    """Only F_BAD_ATS_TREQ, until CR2.REC_CFG_ATS asks for configuration errors too."""
    bench.ste(**ste)
    assert complete(bench) == answer
    assert len(bench.take_events()) == records
    bench.unit.mmio_write(CR2, 1 << 3 | 1 << 1, 4)
    assert complete(bench) == answer
    assert len(bench.take_events()) == (0 if answer == "ABORT" else 1)


def test_a_bad_stream_is_recorded_only_if_both_bits_say_so(bench):
    """RECINVSID and REC_CFG_ATS."""
    bench.again(LOG2SIZE=14)
    for word, count in ((0, 0), (1 << 1, 0), (1 << 3, 0), (1 << 3 | 1 << 1, 1)):
        bench.unit.mmio_write(CR2, word, 4)
        assert complete(bench) == "C_BAD_STREAMID"
        assert len(bench.take_events()) == count


def test_while_switched_off_ats_is_refused(bench):
    """Both kinds, with an event."""
    bench.unit.mmio_write(CR0, ON & ~1, 4)
    assert complete(bench) == "F_BAD_ATS_TREQ"
    assert translated(bench) == "F_TRANSL_FORBIDDEN"
    assert [words[0] & 0xFF for words in bench.events()] == [5, 7]


def test_translated_requests_pass_unless_they_are_checked(bench):
    """ATSCHK: then EATS decides."""
    bench.ste(EATS=0)
    assert translated(bench) == "F_TRANSL_FORBIDDEN"
    assert bench.take_events() == [(0x07 | RID << 32, 1 << 35, PAGE, 0)]
    bench.unit.mmio_write(CR0, ON & ~ATSCHK, 4)
    assert translated(bench) == PAGE
    bench.unit.mmio_write(CR0, ON, 4)
    bench.ste()
    assert translated(bench) == PAGE
    assert translated(bench, 1 << 48) == "ABORT"
    assert bench.events() == []


@pytest.mark.parametrize(
    ("ste", "answer"), [({"Config": 0}, "ABORT"), ({"Config": 4}, "F_TRANSL_FORBIDDEN"), ({"V": 0}, "C_BAD_STE")]
)
def test_what_forbids_translated_requests(bench, ste, answer):
    """A stream without translation; a bad one is recorded with REC_CFG_ATS only."""
    bench.ste(**ste)
    assert translated(bench) == answer
    assert len(bench.take_events()) == int(answer == "F_TRANSL_FORBIDDEN")


def test_split_stage_gives_intermediate_addresses_to_the_device():
    """EATS=2: the request is answered by stage 1, the translated one goes through stage 2."""
    bench = Bench()
    bench.nested(EATS=2)
    bench.second(PAGE, 0x60_0000)
    assert complete(bench, Access.WRITE) == (PAGE, "rw")
    assert translated(bench, PAGE + 8, Access.WRITE) == 0x60_0008
    bench.second(PAGE, 0x60_0000, S2AP=1)
    assert complete(bench, Access.WRITE) == (PAGE, "r")
    assert translated(bench, PAGE + 8, Access.WRITE) == "F_PERMISSION"
    assert len(bench.events()) == 1


def test_split_stage_needs_the_check_of_translated_requests():
    """Without ATSCHK it counts as EATS=0: otherwise intermediate addresses would reach memory."""
    bench = Bench(on=ON & ~ATSCHK)
    bench.nested(EATS=2)
    assert complete(bench) == "F_BAD_ATS_TREQ"


def test_a_bypassed_stage_1_is_answered_one_to_one(bench):
    """S1DSS=1, without SubstreamID."""
    bench.ste(S1DSS=1)
    assert complete(bench, pasid=None) == (IOVA & -0x1000, "r")


# --- invalidation of devices ------------------------------------------------------------------------------------------


def test_an_invalidation_of_a_substream_goes_to_the_device(bench):
    """One page, a range, everything; the address is aligned to the range."""
    bench.tell(command("atc_inv", SID=RID, SSV=1, SSID=PASID, ADDR=0x7000))
    bench.tell(command("atc_inv", SID=RID, SSV=1, SSID=PASID, ADDR=0x7000, SIZE=4))
    bench.tell(command("atc_inv", SID=RID, SSV=1, SSID=PASID, ADDR=0x7000, SIZE=52))
    assert bench.endpoint.invalidated == [
        InvalidateRequest(RID, PASID, 0x7000, 0x1000),
        InvalidateRequest(RID, PASID, 0, 0x10000),
        InvalidateRequest(RID, PASID, 0, 1 << 64),
    ]
    assert bench.neighbour.invalidated == []


def test_without_ssv_everything_in_the_range_goes(bench):
    """With and without PASID; with Global every PASID."""
    bench.tell(command("atc_inv", SID=RID, ADDR=0x7000))
    assert {(one.pasid, one.all_pasids) for one in bench.endpoint.invalidated} == {(None, True), (None, False)}
    bench.tell(command("atc_inv", SID=NEIGHBOUR, SSV=1, SSID=5, GLOBAL=1, SIZE=52))
    assert bench.neighbour.invalidated == [InvalidateRequest(NEIGHBOUR, 5, 0, 1 << 64, all_pasids=True)]


def test_while_switched_off_devices_are_not_told(bench):
    """The command is ignored."""
    bench.unit.mmio_write(CR0, ON & ~1, 4)
    bench.tell(command("atc_inv", SID=RID, SIZE=52), command("sync"))
    assert bench.endpoint.invalidated == []
