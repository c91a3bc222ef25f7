"""The event queue's handler: which line is printed, who is told, and what happens when the queue overflows."""

import pytest

from pasidlab.hardware.iommu.smmuv3.faults import SmmuEvent
from pasidlab.hardware.layouts.smmu_queue import EVENT, EVENT_FETCH
from pasidlab.kernel.iommu.smmuv3.faults import GUESTS_AFFAIR, log_lines
from pasidlab.timeline import Part, Verb

RID = 0x6A08
NAME = "arm-smmu-v3 arm-smmu-v3.0.auto: "


class Listener(Part):
    """A hypervisor that is told of faults."""

    def __init__(self, time):
        super().__init__(time, "listener")
        self.told = []

    def fault_reported(self, rid, record):
        self.told.append((rid, record))


def lines(words, client="0000:6a:01.0"):
    """The lines behind the raw words, without the name of the unit."""
    return [line.removeprefix(NAME) for line in log_lines(words, client)][5:]


def test_the_raw_record_comes_first():
    """As the oldest kernels with this driver print it: the number, and four words behind a tab."""
    words = EVENT.encode(ID=0x10, SID=RID, addr=0x5000)
    assert [line.removeprefix(NAME) for line in log_lines(words, None)][:5] == [
        "event 0x10 received:",
        "\t0x00006a0800000010",
        "\t0x0000000000000000",
        "\t0x0000000000005000",
        "\t0x0000000000000000",
    ]


@pytest.mark.parametrize(
    ("fields", "second"),
    [
        ({"RnW": 1, "CLASS": 2}, 'unpriv data read s1 "Input address caused fault" stag: 0x0'),
        ({"PnU": 1, "InD": 1, "RnW": 1}, 'priv inst read s1 "CD fetch" stag: 0x0'),
        ({"STALL": 1, "STAG": 7, "CLASS": 2}, 'unpriv data write s1 "Input address caused fault" stall stag: 0x7'),
        ({"S2": 1, "CLASS": 1}, 'unpriv data write s2 "Stage 1 translation table fetch" stag: 0x0'),
        ({"CLASS": 3}, 'unpriv data write s1 "Reserved" stag: 0x0'),
    ],
)
def test_a_translation_fault_in_words(fields, second):
    """Event, client and address; then the access and what was being read."""
    words = EVENT.encode(ID=0x10, SID=RID, SSV=1, SSID=5, addr=0x5008, IPA=0x3000, **fields)
    first = "event: F_TRANSLATION client: 0000:6a:01.0 sid: 0x6a08 ssid: 0x5 iova: 0x5008 ipa: 0x3000"
    assert lines(words) == [first, second]


def test_a_table_that_may_not_be_read():
    """F_PERMISSION tells in which way it was accessed."""
    words = EVENT.encode(ID=0x13, SID=RID, CLASS=1, S2=1, TTRnW=1)
    assert lines(words)[1] == 'unpriv data write s2 "Stage 1 translation table fetch" ttd_read stag: 0x0'
    words = EVENT.change(words, TTRnW=0)
    assert " ttd_write " in lines(words)[1]


def test_a_fetch_that_failed_has_its_address():
    """F_STE_FETCH, F_CD_FETCH and F_VMS_FETCH."""
    words = EVENT_FETCH.encode(ID=0x09, SID=RID, SSV=1, SSID=5, FetchAddr=0x1234568)
    assert lines(words) == ["event: F_CD_FETCH client: 0000:6a:01.0 sid: 0x6a08 ssid: 0x5 fetch_addr: 0x1234568"]


def test_events_that_the_kernel_has_no_name_for():
    """UNKNOWN, and a stream without a device."""
    assert lines(EVENT.encode(ID=0x05, SID=0x7000), None) == [
        "event: UNKNOWN client: (unassigned sid) sid: 0x7000 ssid: 0x0"
    ]


def test_a_fault_of_a_device_is_one_entry_of_the_log(bench):
    """With its event, which says code and device."""
    bench.read(0x5000, 9)
    bench.driver.events.service()
    (entry,) = bench.driver.events.log.values()
    words = "event: C_BAD_SUBSTREAMID client: 0000:6a:01.0 sid: 0x6a08 ssid: 0x0"
    assert entry.splitlines()[-1] == f"{NAME}{words}"
    told = bench.time.events[-1]
    assert (told.verb, told.fact("rid")) == (Verb.HANDLE, RID)


def test_the_log_keeps_the_newest_entries(bench):
    """256 of them, by running number."""
    for _ in range(300):
        bench.read(0x5000, 9)
        bench.driver.events.service()
    assert bench.driver.events.log.keys() == list(range(44, 300))


def test_lost_events_are_told_and_the_queue_goes_on(bench):
    """It has 128 entries."""
    for _ in range(200):
        bench.read(0x5000, 9)
    bench.driver.events.service()
    assert bench.driver.events.log.values()[-1] == f"{NAME}EVTQ overflow detected -- events lost"
    bench.read(0x5000, 9)
    bench.driver.events.service()
    assert "overflow" not in bench.driver.events.log.values()[-1]


@pytest.mark.parametrize("event", list(SmmuEvent))
@pytest.mark.parametrize("stage", [1, 2])
def test_a_guest_is_told_of_what_its_own_tables_caused(bench, event, stage):
    """Stage 1, and only what concerns its tables; the rest is printed."""
    listener = bench.driver.listeners[RID] = Listener(bench.time)
    words = EVENT.encode(ID=event, SID=RID, S2=stage - 1)
    bench.unit.record_event(words)
    bench.driver.events.service()
    handed_on = event in GUESTS_AFFAIR and stage == 1
    assert listener.told == ([(RID, words)] if handed_on else [])
    assert len(bench.driver.events.log) == (not handed_on)


def test_faults_of_other_devices_are_not_told_to_it(bench):
    """The listener is for one requester ID."""
    listener = bench.driver.listeners[RID] = Listener(bench.time)
    bench.unit.record_event(EVENT.encode(ID=0x10, SID=RID + 8))
    bench.driver.events.service()
    assert listener.told == []
    assert len(bench.driver.events.log) == 1
