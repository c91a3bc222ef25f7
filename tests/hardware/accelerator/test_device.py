"""Submission: which store a queue takes, when it says retry, and whose address space the DMA uses."""

import pytest

from pasidlab.hardware.accelerator import Accelerator, Command, Descriptor, Flag, Opcode
from pasidlab.hardware.accelerator.register_map import SWERR, portal_offset
from pasidlab.hardware.cpu import IA32_PASID, Cpu
from pasidlab.hardware.layouts import dsa
from pasidlab.hardware.mmio import AddressMap
from pasidlab.timeline import Verb

SHARED, DEDICATED = 0, 1
NOOP = Descriptor(Opcode.NOOP)
COPY = Descriptor(Opcode.MEMMOVE, src=0x1000, dst=0x2000, size=8)


def last(bench, verb):
    return [event for event in bench.time.events if event.verb is verb][-1]


def software_error(device):
    return dsa.SWERR.decode(device.get_words(SWERR, dsa.SWERR))


def test_a_shared_queue_takes_enqueue_stores_only(bench):
    """ENQCMD is accepted, a posted store is dropped and said so."""
    bench.start(SHARED, pasid_en=1)
    assert bench.enqueue(NOOP._replace(pasid=5))
    bench.post(NOOP, SHARED)
    assert bench.device.waiting(SHARED) == [NOOP._replace(pasid=5)]
    assert bench.time.events[-1].verb is Verb.REFUSE


def test_a_dedicated_queue_takes_posted_stores_only(bench):
    """MOVDIR64B is accepted on both portals, an enqueue store is told to retry."""
    bench.start(DEDICATED, pasid=5, pasid_en=1)
    bench.post(NOOP)
    bench.post(NOOP, limited=True)
    assert bench.device.occupancy(DEDICATED) == 2
    assert not bench.enqueue(NOOP, DEDICATED)
    assert last(bench, Verb.RETRY).fact("reason") == "the queue is dedicated"


def test_a_full_shared_queue_says_retry_and_recovers(bench):
    """The seventeenth descriptor is refused; after one was executed there is room again."""
    bench.start(SHARED, pasid_en=1)
    assert [bench.enqueue(NOOP) for _ in range(17)] == [True] * 16 + [False]
    assert last(bench, Verb.RETRY).fact("reason") == "the queue is full"
    bench.agenda.run(bench.agenda.actions()[0].number)
    assert bench.enqueue(NOOP)


def test_the_limited_portal_keeps_room_for_the_unlimited_one(bench):
    """With threshold 2 the limited portal refuses the third descriptor, the unlimited one still accepts."""
    bench.start(SHARED, pasid_en=1, wq_thresh=2)
    assert [bench.enqueue(NOOP, limited=True) for _ in range(3)] == [True, True, False]
    assert bench.enqueue(NOOP)


def test_a_full_dedicated_queue_drops_the_store(bench):
    """A posted store cannot be refused: software must count, and the loss is visible as an event only."""
    bench.start(DEDICATED, wq_size=1)
    bench.post(NOOP)
    bench.post(NOOP)
    assert bench.device.occupancy(DEDICATED) == 1
    assert bench.time.events[-1].verb is Verb.REFUSE


def test_disabled_or_missing_queues_say_retry(bench):
    """Disabled device, disabled queue and no queue all look the same to the CPU."""
    assert not bench.enqueue(NOOP)
    bench.command(Command.ENABLE_DEVICE)
    assert not bench.enqueue(NOOP)
    assert not bench.enqueue(NOOP, wq=9)
    bench.post(NOOP, wq=9)
    assert not bench.agenda.actions()


def test_portals_take_only_64_byte_stores(bench):
    """Loads give zero and ordinary stores submit nothing."""
    bench.start(SHARED, pasid_en=1)
    bench.device.portals.mmio_write(0, 1, 8)
    assert bench.device.portals.mmio_read(0) == 0
    assert bench.device.occupancy(SHARED) == 0


def test_occupancy_can_be_read(bench):
    """WQCFG tells how many descriptors wait."""
    bench.start(SHARED, pasid_en=1)
    bench.enqueue(NOOP)
    bench.enqueue(NOOP)
    assert bench.device.wq_field(SHARED, "occupancy") == 2


@pytest.mark.parametrize(
    ("wq", "fields", "own", "pasid", "privileged"),
    [
        (SHARED, {"pasid_en": 1, "pasid": 9}, {"pasid": 5, "priv": 1}, 5, True),
        (SHARED, {"pasid_en": 1, "priv": 1}, {"pasid": 5}, 5, False),
        (DEDICATED, {"pasid_en": 1, "pasid": 9, "priv": 1}, {"pasid": 5}, 9, True),
        (DEDICATED, {}, {"pasid": 5}, None, False),
    ],
)
def test_whose_address_space_the_dma_uses(bench, wq, fields, own, pasid, privileged):
    """Shared: the descriptor's PASID and privilege; dedicated: WQCFG's; without PASID enable no PASID at all."""
    bench.map(pasid, 1, 10)
    bench.map(pasid, 2, 20)
    bench.memory.write(10 * 4096, b"8 bytes!")
    bench.start(wq, **fields)
    work = COPY._replace(**own)
    if wq == SHARED:
        assert bench.enqueue(work)
    else:
        bench.post(work)
    assert last(bench, Verb.ACCEPT).fact("pasid") == pasid
    bench.agenda.run_all()
    assert bench.memory.read(20 * 4096, 8) == b"8 bytes!"
    assert {(request.pasid, request.privileged) for request in bench.unit.requests} == {(pasid, privileged)}


def test_descriptors_may_run_in_any_order(bench):
    """The agenda lists each descriptor; choosing the younger first leaves the older one waiting."""
    bench.start(SHARED, pasid_en=1)
    bench.enqueue(NOOP._replace(pasid=1))
    bench.enqueue(NOOP._replace(pasid=2))
    first, second = bench.agenda.actions(bench.device)
    assert first.label == "dsa0 wq0 executes NOOP for PASID 1"
    bench.agenda.run(second.number)
    assert [work.pasid for work in bench.device.waiting(SHARED)] == [1]


def test_a_submission_is_told_as_a_tree(bench):
    """ENQCMD causes SUBMIT; EXECUTE causes DMA and COMPLETE."""
    mmio = AddressMap(bench.time, "mmio")
    mmio.add(0x10_0000, 0x1_4000, bench.device.portals, "dsa0 portals")
    cpu = Cpu(bench.time, "cpu0")
    bench.map(5, 1, 10)
    bench.map(5, 2, 20)
    bench.start(SHARED, pasid_en=1)
    cpu.write_msr(IA32_PASID, 1 << 31 | 5)
    assert cpu.enqcmd(mmio, 0x10_0000 + portal_offset(SHARED, limited=True) + 0x40, COPY.to_bytes())
    assert last(bench, Verb.ACCEPT).cause == last(bench, Verb.ENQCMD).number
    bench.agenda.run_all()
    execute = last(bench, Verb.EXECUTE)
    after = bench.time.events[execute.number + 1 :]
    assert [event.verb for event in after] == [Verb.DMA, Verb.DMA, Verb.COMPLETE]
    assert {event.cause for event in after} == {execute.number}
    assert (after[-1].fact("pasid"), after[-1].fact("status")) == (5, "SUCCESS")


def test_what_no_completion_record_can_tell_goes_to_the_error_register(bench):
    """A page fault on the record itself fills SWERR with queue, operation, PASID and address."""
    bench.start(SHARED, pasid_en=1)
    bench.enqueue(NOOP._replace(pasid=5, completion_addr=0x7000, flags=Flag.CRAV | Flag.RCR))
    bench.agenda.run_all()
    record = software_error(bench.device)
    assert (
        record.items()
        >= {
            "valid": 1,
            "desc_valid": 1,
            "wq_idx_valid": 1,
            "fault_rw": 1,
            "error": 0x1A,
            "wq_idx": SHARED,
            "operation": 0,
            "pasid": 5,
            "fault_addr": 0x7000,
        }.items()
    )
    assert last(bench, Verb.FAULT).fact("address") == 0x7000


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (COPY, 0x03),
        (Descriptor(0x77), 0x10),
        (NOOP._replace(flags=Flag.RCR), 0x11),
        (NOOP._replace(flags=Flag.RCR | Flag.CRAV, completion_addr=0x1010), 0x1B),
    ],
)
def test_errors_without_a_usable_record_address(bench, work, error):
    """Failed work that gives no completion address, or a misaligned one, is reported in SWERR."""
    bench.start(SHARED, pasid_en=1)
    bench.enqueue(work)
    bench.agenda.run_all()
    assert software_error(bench.device)["error"] == error


def test_two_devices_with_the_same_history_are_equal(make_bench):
    """The digest depends on what is queued, not on how it came there."""

    def digest(detour):
        bench = make_bench()
        bench.start(SHARED, pasid_en=1)
        if detour:
            bench.enqueue(NOOP)
            bench.agenda.run_all()
        bench.enqueue(NOOP._replace(pasid=3))
        return bench.time.digest()

    assert digest(detour=True) == digest(detour=False)


def test_the_repr_names_the_device(bench):
    """People see which device they hold."""
    assert isinstance(bench.device, Accelerator)
    assert repr(bench.device) == "<Accelerator dsa0 at 6a:00.0>"
    assert repr(bench.device.portals) == "<Portals dsa0.portals>"
