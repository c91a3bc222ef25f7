"""The event log becomes lines as Linux prints them; a guest's own faults go to its hypervisor."""

import pytest

from pasidlab.hardware.iommu.amdvi import register_file as reg
from pasidlab.hardware.iommu.amdvi.event_lines import read_events
from pasidlab.hardware.iommu.amdvi.fault_log import EventRecord
from pasidlab.hardware.layouts.amd import STATUS_REG
from pasidlab.hardware.pcie import Access, DmaRequest, PageRequest
from pasidlab.kernel.iommu.amdvi.faults import log_line
from pasidlab.timeline import Verb

RID = 0x6A08
LINES = {
    (1, 0x6A08, 0x12345, 0x80, 0x1000, 0): (
        "iommu ivhd0: AMD-Vi: Event logged [ILLEGAL_DEV_TABLE_ENTRY device=0000:6a:01.0 pasid=0x12345 address=0x1000 "
        "flags=0x0080]"
    ),
    (2, 0x6A08, 0xD, 0x70, 0xCFF49550, 0): (
        "pci 0000:6a:01.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000d address=0xcff49550 flags=0x0070]"
    ),
    (3, 0x6A08, 0, 0x200, 0x2000, 0): (
        "iommu ivhd0: AMD-Vi: Event logged [DEV_TAB_HARDWARE_ERROR device=0000:6a:01.0 address=0x2000 flags=0x0200]"
    ),
    (4, 0x6A08, 7, 0x200, 0x2000, 0): (
        "iommu ivhd0: AMD-Vi: Event logged [PAGE_TAB_HARDWARE_ERROR device=0000:6a:01.0 pasid=0x0007 address=0x2000 "
        "flags=0x0200]"
    ),
    (5, 0, 0, 0, 0x12340, 0): "iommu ivhd0: AMD-Vi: Event logged [ILLEGAL_COMMAND_ERROR address=0x12340]",
    (6, 0, 0, 0x200, 0x12340, 0): (
        "iommu ivhd0: AMD-Vi: Event logged [COMMAND_HARDWARE_ERROR address=0x12340 flags=0x0200]"
    ),
    (7, 0x6A08, 0, 0, 0x12340, 0): (
        "iommu ivhd0: AMD-Vi: Event logged [IOTLB_INV_TIMEOUT device=0000:6a:01.0 address=0x12340]"
    ),
    (8, 0, 0, 0xA00, 0xFFFF_FFFD_F800_0000, 0): (
        "iommu ivhd0: AMD-Vi: Event logged [INVALID_DEVICE_REQUEST device=0000:00:00.0 pasid=0x00000 "
        "address=0xfffffffdf8000000 flags=0x0a00]"
    ),
    (9, 0x6A08, 0x21, 0x144, 0x7F00_0000_2000, 0x200): (
        "iommu ivhd0: AMD-Vi: Event logged [INVALID_PPR_REQUEST device=0000:6a:01.0 pasid=0x00021 "
        "address=0x7f0000002000 flags=0x0144 tag=0x200]"
    ),
}


@pytest.mark.parametrize("event", LINES)
def test_each_event_has_the_line_that_linux_prints(event):
    """iommu_print_event and amd_iommu_report_page_fault, format by format."""
    assert log_line(EventRecord(*event).words()) == LINES[event]


@pytest.mark.parametrize("event", LINES)
def test_the_decoder_of_real_logs_reads_these_lines(event):
    """Code, requester ID where the line has one, address and flags come back."""
    (read,) = read_events(LINES[event])
    assert read.name == EventRecord(*event).name
    assert read.address == event[4]


def test_an_event_without_a_name_is_printed_in_four_numbers():
    """The format of Linux has no closing bracket."""
    line = log_line((0xB000_0001_0000_6A08, 0x2_0000_0003))
    assert line == (
        "iommu ivhd0: AMD-Vi: Event logged [UNKNOWN event[0]=0x00006a08 event[1]=0xb0000001 event[2]=0x00000003 "
        "event[3]=0x00000002"
    )


def test_a_page_fault_of_an_unknown_device_names_it():
    """There is no driver data to print through."""
    words = EventRecord(2, 0x0500, 0, 0x20, 0x92050DE0).words()
    assert log_line(words, known=False) == (
        "AMD-Vi: Event logged [IO_PAGE_FAULT device=0000:05:00.0 domain=0x0000 address=0x92050de0 flags=0x0020]"
    )


def fault(bench, count=1, pasid=5):
    """Requests that are blocked."""
    for page in range(count):
        bench.unit.translate(DmaRequest(RID, 0x1000 * page, Access.WRITE, pasid))


def test_every_event_is_read_once_and_zeroed(bench):
    """Head meets tail, the ring is zero again, the interrupt bit is clear; an event says what was handled."""
    fault(bench, 3)
    ring = bench.mmio.read(reg.BASE + reg.EVT_BUF) & 0xF_FFFF_FFFF_F000
    assert bench.memory.load(ring)
    bench.faults.service()
    bench.faults.service()
    assert len(bench.faults.log.values()) == 3
    assert bench.mmio.read(reg.BASE + reg.EVT_HEAD) == bench.mmio.read(reg.BASE + reg.EVT_TAIL) == 48
    assert not any(bench.memory.load_words(ring, 512))
    assert not bench.mmio.read(reg.BASE + reg.STATUS) & STATUS_REG["EventLogInt"].mask
    handled = [event for event in bench.time.events if event.verb is Verb.HANDLE]
    assert [(event.fact("code"), event.fact("rid")) for event in handled] == [(2, RID)] * 3


def test_an_illegal_entry_is_dumped(bench):
    """dump_dte_entry: four words behind the event, as the decoder of real logs reads them."""
    words = (0x6000_0000_0000_0003 | 7 << 9, 7, 0, 0)
    bench.driver.table.write(RID, words)
    bench.driver.queue.submit(bench.driver.queue.device_entry(RID))
    bench.unit.translate(DmaRequest(RID, 0x1000, Access.READ))
    bench.faults.service()
    assert bench.faults.log.values()[1] == f"AMD-Vi: DTE[0]: {words[0]:016x}"
    (event,) = read_events("\n".join(bench.faults.log.values()))
    assert (event.name, event.dte) == ("ILLEGAL_DEV_TABLE_ENTRY", words)


def test_an_illegal_command_is_dumped(bench):
    """dump_command: four halves of words."""
    assert bench.refused(bench.driver.queue.submit, (0xF << 60 | 0x1234, 0x5678)).name == "EIO"
    bench.faults.service()
    assert bench.faults.log.values()[1:] == [
        "AMD-Vi: CMD[0]: 00001234",
        "AMD-Vi: CMD[1]: f0000000",
        "AMD-Vi: CMD[2]: 00005678",
        "AMD-Vi: CMD[3]: 00000000",
    ]


def test_the_log_goes_round(bench):
    """More events than fit, read in time: none is lost."""
    for _ in range(3):
        fault(bench, 300)
        bench.faults.service()
    newest = bench.faults.log.values()
    assert len(newest) == 256
    assert newest[-1].endswith("address=0x12b000 flags=0x0025]")
    assert not any("restarting" in line for line in newest)


def test_a_log_that_ran_over_is_started_again(bench):
    """511 events fit; what is lost is said, and the next event is recorded."""
    fault(bench, 600)
    bench.faults.service()
    assert bench.faults.log.values()[-1] == "AMD-Vi: IOMMU Event log restarting"
    fault(bench)
    bench.faults.service()
    assert "IO_PAGE_FAULT domain=0x0005 address=0x0" in bench.faults.log.values()[-1]


def test_nothing_is_done_when_nothing_happened(bench):
    """The machine asks after every operation."""
    position = bench.time.journal.position
    bench.faults.service()
    assert bench.time.journal.position == position


# --- a guest's faults -------------------------------------------------------------------------------------------------


@pytest.fixture
def guest(bench, entry, listener):
    """A VM whose table is bound, at 0x1000 of its memory: no PASID is in it."""
    bench.domain = bench.vm()
    bench.driver.attach_domain(bench.domain, RID)
    bench.driver.bind_table(bench.domain, RID, entry(root=0x1000, PPR=1))
    bench.driver.listeners[RID] = bench.listener = listener
    return bench


def test_a_fault_of_a_guests_table_goes_to_its_hypervisor(guest):
    """A PASID that is not in the guest's table: the words of the event, and no line in the host's log."""
    fault(guest)
    guest.faults.service()
    ((rid, words),) = guest.listener.told
    assert rid == RID
    assert EventRecord.of(words).pasid == 5
    assert guest.faults.log.values() == []


def test_a_fault_of_the_host_table_stays_the_hosts(guest):
    """The guest's page table lies where the VM has no memory: DomainID and guest-physical address are printed."""
    page = guest.domain.table.find(0x1000)
    guest.memory.store(page + 5 * 8, 0x7_7000 | 1)
    fault(guest)
    guest.faults.service()
    (line,) = guest.faults.log.values()
    did = guest.driver.bound[RID].did
    assert line == (
        f"pci 0000:6a:01.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x{did:04x} address=0x77000 flags=0x0020]"
    )
    assert guest.listener.told == []


def test_a_request_without_pasid_is_the_hosts_as_well(guest):
    """It is the host table that did not let it pass."""
    guest.unit.translate(DmaRequest(RID, 0x9000, Access.READ))
    guest.faults.service()
    assert len(guest.faults.log.values()) == 1
    assert guest.listener.told == []


def test_a_page_request_that_the_guest_forbids_is_the_guests(bench, entry, listener):
    """PPR=0 in the guest's entry: INVALID_PPR_REQUEST."""
    domain = bench.vm()
    bench.driver.attach_domain(domain, RID)
    bench.driver.bind_table(domain, RID, entry(root=0x1000))
    bench.driver.listeners[RID] = listener
    bench.unit.page_request(PageRequest(RID, 5, 0x1000, True, False))
    bench.faults.service()
    assert [EventRecord.of(words).name for _, words in listener.told] == ["INVALID_PPR_REQUEST"]


def test_another_device_of_the_host_keeps_its_own_log(guest):
    """The listener hears of its device only."""
    guest.plug(0x6B08)
    guest.unit.translate(DmaRequest(0x6B08, 0x1000, Access.READ, 9))
    guest.faults.service()
    assert len(guest.faults.log.values()) == 1
    assert guest.listener.told == []
