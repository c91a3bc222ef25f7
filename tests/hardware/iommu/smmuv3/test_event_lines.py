"""Logs of events: rules about how kernels print, and about what happens to logs on their way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.iommu.smmuv3.event_lines import LoggedEvent, read_events

HEAD = "arm-smmu-v3 arm-smmu-v3.3.auto: event 0x10 received:"
WORDS = (0x00007D0200002810, 0x0000020880000003, 0xFFFF_8000_1234, 0x0000_0000_0004_2000)
SENTENCE = (
    "arm-smmu-v3 smmu: event: F_PERMISSION client: 0000:01:00.0 sid: 0x100 ssid: 0x5 iova: 0x1000 ipa: 0x20c8\n"
    'arm-smmu-v3 smmu: priv inst read s2 "Stage 1 translation table fetch" ttd_read stall stag: 0x7\n'
)


@pytest.mark.parametrize(
    "prefix", ["", "[   12.3456] arm-smmu-v3 smmu: ", "> kern: | ", "(XEN) SMMUv3: /smmu@9050000: "]
)
@pytest.mark.parametrize("between", ["\n", " ", "\n\n"])
def test_prefixes_and_line_breaks_do_not_matter(prefix, between):
    """The four words are found wherever they stand behind the head."""
    text = prefix + HEAD + between + between.join(f"{prefix}\t0x{word:016x}" for word in WORDS)
    (event,) = read_events(text)
    assert event.words == WORDS
    assert (event.pasid, event.stag, event.stall, event.access, event.klass) == (2, 3, True, "read", "IN")


@pytest.mark.parametrize("count", range(5))
def test_missing_words_count_as_zero(count):
    """A log that was cut."""
    text = HEAD + "".join(f"\n 0x{word:016x}" for word in WORDS[:count])
    (event,) = read_events(text)
    assert event.words == (WORDS[:count] or (0x10,)) + (0,) * (4 - max(1, count))


def test_a_sentence_alone_is_an_event():
    """Everything that it says is in the record."""
    (event,) = read_events(SENTENCE)
    assert (event.event, event.client, event.sid, event.pasid) == ("F_PERMISSION", "0000:01:00.0", 0x100, 5)
    assert (event.address, event.ipa, event.stage, event.klass) == (0x1000, 0x2000, 2, "TT")
    assert (event.privileged, event.instruction, event.access) == (True, True, "read")
    assert (event.stall, event.stag) == (True, 7)


def test_a_sentence_behind_its_words_is_the_same_event():
    """Also behind a head whose words are missing; another stream's sentence is another event."""
    low = 0x0000010000005813
    record = f"{HEAD.replace('0x10', '0x13')}\n 0x{low:016x}\n 0x{0:016x}\n 0x{0:016x}\n 0x{0:016x}\n"
    (both,) = read_events(record + SENTENCE)
    assert (both.words, both.client) == ((low, 0, 0, 0), "0000:01:00.0")
    (bare,) = read_events(HEAD.replace("0x10", "0x13") + "\n" + SENTENCE)
    assert (bare.sid, bare.client) == (0x100, "0000:01:00.0")
    assert len(read_events(record + SENTENCE.replace("sid: 0x100", "sid: 0x200"))) == 2
    assert len(read_events(record + SENTENCE + SENTENCE)) == 2


def test_fetch_addresses_are_read():
    """F_CD_FETCH tells one in place of the intermediate address."""
    (event,) = read_events("event: F_CD_FETCH client: (unassigned sid) sid: 0x8 ssid: 0x0 fetch_addr: 0x12340")
    assert (event.event, event.fetch_address, event.ipa, event.pasid) == ("F_CD_FETCH", 0x12340, 0, None)


def test_the_driver_of_an_smmu_inside_a_device_has_its_own_words():
    """One line; decimal streams, the second word in halves."""
    line = (
        "intel_vpu 0000:00:0b.0: [drm] *ERROR* ivpu_mmu_dump_event(): MMU EVTQ: 0x10 (Translation fault) SSID: 2 "
        "SID: 3, e[2] 80000004, e[3] 00000208, in addr: 0x7f00, fetch addr: 0x0"
    )
    (event,) = read_events(line)
    assert (event.event, event.sid, event.pasid, event.address) == ("F_TRANSLATION", 3, 2, 0x7F00)
    assert (event.stall, event.stag, event.access) == (True, 4, "read")


def test_an_event_that_is_not_known_is_told_by_its_number():
    """Nothing is made up."""
    (event,) = read_events(HEAD.replace("0x10", "0xfe"))
    assert (event.event, event.id) == ("0xfe", 0xFE)


def test_a_substream_that_is_bad_is_told_without_ssv():
    """C_BAD_SUBSTREAMID keeps SSID; its SSV means nothing."""
    event = LoggedEvent((0x00006A01FFFFF008, 0, 0, 0))
    assert (event.event, event.ssv, event.pasid, event.device) == ("C_BAD_SUBSTREAMID", False, 0xFFFFF, "6a:00.1")


@given(st.text(alphabet="event: 0x10received\n[]()F_TRANSLATION sid ssid123abf.", max_size=200))
def test_no_text_is_too_broken(text):
    """Whatever stands in a log, reading it ends in events or in nothing."""
    for event in read_events(text):
        assert len(event.words) == 4
        assert isinstance(event.klass, str)
