"""Devices, processes and domains: what the driver writes, in which order, and what it refuses."""

import pytest

from pasidlab.hardware.iommu.contract import EntryKind
from pasidlab.hardware.iommu.smmuv3 import register_file as reg
from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.iommu.smmuv3.invalidation import Command, decode_command
from pasidlab.hardware.layouts.pcie import ATS_CAP, PRI_CAP
from pasidlab.hardware.layouts.smmu import CD, STE, STRTAB_BASE_CFG_REG
from pasidlab.hardware.pcie import InvalidateRequest, PageGroupResponse, PageRequest, ResponseCode
from pasidlab.kernel.iommu.smmuv3 import entries
from pasidlab.timeline import Verb

RID = 0x6A08
PASID = 5
WHOLE = 1 << 64


def names(bench):
    """The commands that were seen, oldest first."""
    return [name for name, *_ in bench.unit.seen]


# --- switching on -----------------------------------------------------------------------------------------------------


def test_the_unit_is_on_with_all_that_it_has(bench):
    """Commands, events, page requests, checked translated requests, translation; interrupts for all three."""
    registers = bench.unit.registers
    assert registers[reg.CR0ACK] == 0x1F
    assert registers[reg.IRQ_CTRLACK] == 7
    config = STRTAB_BASE_CFG_REG.decode((registers[reg.STRTAB_BASE_CFG],))
    assert config == {"LOG2SIZE": 16, "SPLIT": 8, "FMT": 1}


def test_a_unit_without_page_requests_has_no_queue_for_them(make_bench):
    """PRIQEN stays off."""
    bench = make_bench(SmmuIdentity(pri=False), ats=True)
    assert not bench.unit.registers[reg.CR0] & reg.PRIQEN
    assert bench.driver.devices[RID].ats
    assert not bench.driver.devices[RID].pri


def test_everything_is_forgotten_before_anything_is_translated(bench):
    """CFGI_ALL and TLBI_NSNH_ALL come first."""
    assert names(bench)[:2] == ["CFGI_ALL", "TLBI_NSNH_ALL"]


# --- devices ----------------------------------------------------------------------------------------------------------


def test_a_device_gets_contexts_and_passes_through_without_pasid(bench):
    """S1DSS=1: stage 1 is bypassed, and nothing bounds a device of the kernel's own."""
    assert entries.meaning_of(bench.stream()) == "stage 1, pass-through without PASID"
    assert bench.read(0x5000) == 0x5000
    (entry,) = bench.unit.entries(RID)
    assert (entry.pasid, entry.kind) == (0, EntryKind.PASS_THROUGH)
    assert entry.address == bench.driver.device_entry(RID)


def test_a_device_that_nobody_added_is_blocked(bench):
    """A stream of a known bus aborts in silence, one of another bus has no entry."""
    silent, unknown = bench.read(0x5000, rid=RID + 1), bench.read(0x5000, rid=0x7008)
    assert (silent.name, silent.suppressed) == ("ABORT", True)
    assert unknown.name == "C_BAD_STREAMID"
    assert bench.driver.device_entry(RID + 1) is None


def test_a_device_is_added_once(bench):
    """-EEXIST."""
    assert bench.refused(bench.driver.add_device, RID).name == "EEXIST"


def test_a_device_that_sends_no_pasids_is_bypassed(bench):
    """There is no function behind the requester ID: Config 4, and no table."""
    bench.driver.add_device(0x6B10)
    assert entries.meaning_of(bench.stream(0x6B10)) == "bypass"
    assert bench.driver.entry_table(0x6B10) is None
    assert bench.refused(bench.driver.read_entry, 0x6B10, 1).name == "ENODEV"
    space, _ = bench.mm()
    assert bench.refused(bench.driver.write_process, 0x6B10, PASID, space).name == "ENODEV"


def test_linear_tables_are_made_where_there_are_no_others(make_bench):
    """CD2L=0 and ST_LEVEL=0: S1Fmt 0 with 2^10 descriptors, and a stream table of 4 MiB."""
    bench = make_bench(SmmuIdentity(cd2l=False, st_level=0))
    assert (STE["S1Fmt"].get(bench.stream()), STE["S1CDMax"].get(bench.stream())) == (0, 10)
    assert bench.driver.devices[RID].pasid_bits == 10
    space, page = bench.mm()
    bench.driver.write_process(RID, 1023, space)
    assert bench.read(page, 1023) == space.physical(page)
    assert bench.driver.tables[RID].present() == [1023]
    assert bench.refused(bench.driver.write_process, RID, 1024, space).name == "EINVAL"


def test_ats_and_page_requests_are_switched_on_with_the_device(make_bench):
    """EATS=1 in the entry, ATS and PRI in the function."""
    bench = make_bench(ats=True)
    assert STE["EATS"].get(bench.stream()) == 1
    function = bench.driver.function(RID)
    assert function.get(ATS_CAP)["EN"] == 1
    assert function.get(PRI_CAP)["EN"] == 1


def test_a_device_that_may_be_held_has_no_ats(make_bench):
    """Its entry lets it be held (S1STALLD=0); any other one is never held."""
    held, other = make_bench(ats=True, stall=True), make_bench(ats=True)
    assert (STE["EATS"].get(held.stream()), STE["S1STALLD"].get(held.stream())) == (0, 0)
    assert (STE["EATS"].get(other.stream()), STE["S1STALLD"].get(other.stream())) == (1, 1)
    assert held.driver.devices[RID].stall
    assert not held.driver.devices[RID].pri


@pytest.mark.parametrize("model", [1, 2])
def test_where_stalls_are_not_optional_no_entry_asks_for_them_to_be_off(make_bench, model):
    """S1STALLD would be illegal; a unit that holds everything holds this device too."""
    bench = make_bench(SmmuIdentity(stall_model=model))
    assert STE["S1STALLD"].get(bench.stream()) == 0
    assert bench.driver.devices[RID].stall is (model == 2)
    space, page = bench.mm()
    bench.driver.write_process(RID, PASID, space)
    assert CD["S"].get(bench.entry(PASID)) == (model == 2)
    assert bench.read(page, PASID) == space.physical(page)


def test_a_removed_device_is_blocked_and_leaves_nothing(make_bench):
    """Its contexts are freed, and so are the lines of every cache."""
    bench = make_bench(ats=True)
    used = bench.pages.used
    bench.plug(0x6A10, ats=True)
    space, page = bench.mm()
    bench.driver.write_process(0x6A10, PASID, space)
    bench.read(page, PASID, rid=0x6A10)
    bench.driver.clear_entry(0x6A10, PASID)
    space.exit()
    space.drop()
    bench.driver.remove_device(0x6A10)
    assert bench.read(0x5000, rid=0x6A10).name == "ABORT"
    assert bench.pages.used == used
    assert bench.driver.entry_table(0x6A10) is None
    assert list(bench.unit.cache_lines(bench.unit.entries(RID), every=False)) == []


def test_a_device_with_a_domain_is_not_removed(bench):
    """-EBUSY."""
    domain, _ = bench.vm()
    bench.driver.attach_domain(domain, RID)
    assert bench.refused(bench.driver.remove_device, RID).name == "EBUSY"


# --- processes --------------------------------------------------------------------------------------------------------


def test_a_descriptor_becomes_valid_by_its_first_word_which_comes_last(bench):
    """Leaf, then the other words, then V=1; the unit forgets what it had after each."""
    space, page = bench.mm()
    bench.watch(lambda: bench.entry(PASID))
    bench.driver.write_process(RID, PASID, space)
    final = bench.entry(PASID)
    assert names(bench) == ["CFGI_CD"] * 3
    assert [look for *_, look in bench.unit.seen] == [(0,) * 8, (0, *final[1:]), final]
    assert bench.read(page, PASID) == space.physical(page)


def test_processes_are_told_apart_by_their_asids(bench):
    """Two processes on one device, one process on two devices."""
    bench.plug(0x6B08)
    (first, _), (second, _) = bench.mm("p1"), bench.mm("p2")
    bench.driver.write_process(RID, 5, first)
    bench.driver.write_process(RID, 6, second)
    bench.driver.write_process(0x6B08, 5, first)
    asids = [entries.asid_of(words) for words in (bench.entry(5), bench.entry(6), bench.entry(5, 0x6B08))]
    assert asids == [1, 2, 1]
    bench.driver.clear_entry(RID, 5)
    assert bench.driver.asids.items() == [(5, 1), (6, 2)]
    bench.driver.clear_entry(0x6B08, 5)
    assert bench.driver.asids.items() == [(6, 2)]


def test_asids_run_out(make_bench):
    """-ENOSPC with 8 bits of them."""
    bench = make_bench(SmmuIdentity(asid16=False))
    space, _ = bench.mm()
    for pasid in range(1, 256):
        bench.driver.write_process(RID, pasid, space)
    assert bench.refused(bench.driver.write_process, RID, 256, space).name == "ENOSPC"


def test_unmapped_pages_are_flushed_by_asid_and_by_pasid(make_bench):
    """The TLB by a range (an odd page takes its neighbour along), the device's TLB by the smallest power of two."""
    bench = make_bench(ats=True)
    space, _ = bench.mm()
    bench.driver.write_process(RID, PASID, space)
    bench.watch()
    bench.function.told.clear()
    bench.driver.flush_process(PASID, [RID], (0x7000, 4))
    assert names(bench) == ["TLBI_NH_VA", "ATC_INV"]
    assert bench.function.told == [InvalidateRequest(RID, PASID, 0, 0x10000)]
    bench.driver.flush_process(99, [RID], (0x7000, 4))
    assert len(names(bench)) == 2


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 513, 5000])
def test_every_page_of_a_range_is_forgotten(make_bench, ranges, count):
    """Whatever the unit can name at once: ranges, pages, or for many pages the whole ASID."""
    bench = make_bench(SmmuIdentity(ril=ranges))
    space, _ = bench.mm()
    bench.driver.write_process(RID, PASID, space)
    bench.watch()
    bench.driver.flush_process(PASID, [RID], (0x10_0000, count))
    covered: set[int] = set()
    for name, words in bench.unit.seen:
        if name == "TLBI_NH_ASID":
            covered.update(range(0x10_0000, 0x10_0000 + count * 4096, 4096))
            continue
        start, size = _command(bench, words).pages(bench.unit.identity)
        covered.update(range(start, start + size, 4096))
    assert covered.issuperset(range(0x10_0000, 0x10_0000 + count * 4096, 4096))
    assert len(bench.unit.seen) <= 512


def _command(bench, words):
    """The command in some words."""
    found = decode_command(words, bench.unit.identity)
    assert isinstance(found, Command)
    return found


# --- domains ----------------------------------------------------------------------------------------------------------


def test_a_domain_bounds_a_device_and_refuses_its_pasids(make_bench):
    """Stage 2 alone: guest-physical addresses without PASID, C_BAD_SUBSTREAMID with one."""
    bench = make_bench(ats=True)
    domain, frame = bench.vm()
    bench.driver.attach_domain(domain, RID)
    assert bench.read(0x1008) == frame + 8
    assert bench.read(0x2000).name == "F_TRANSLATION"
    assert bench.read(0x1008, PASID).name == "C_BAD_SUBSTREAMID"
    (entry,) = bench.unit.entries(RID)
    assert (entry.kind, entry.second, entry.tag) == (EntryKind.SECOND, domain.table.root, domain.did)


def test_a_device_forgets_what_it_had_when_its_entry_changes(make_bench):
    """Its own TLB is emptied whole, once the new entry counts."""
    bench = make_bench(ats=True)
    domain, _ = bench.vm()
    bench.function.told.clear()
    bench.watch(bench.stream)
    bench.driver.attach_domain(domain, RID)
    assert InvalidateRequest(RID, None, 0, WHOLE, all_pasids=True) in bench.function.told
    assert [look for name, _, look in bench.unit.seen if name == "ATC_INV"] == [bench.stream()]


def test_page_requests_of_a_domain_end_with_it(make_bench):
    """Also those of a device whose guest never had a table."""
    bench = make_bench(ats=True)
    domain, _ = bench.vm()
    bench.driver.attach_domain(domain, RID)
    bench.unit.page_request(PageRequest(RID, None, 0x7000, True, False, group=3))
    bench.driver.detach_domain(domain, RID)
    assert bench.unit.page_queue.requests() == []
    assert PageGroupResponse(RID, None, 3, ResponseCode.INVALID) in bench.function.told


def test_an_entry_in_use_is_made_invalid_before_it_changes(bench):
    """Between two ways of translating the unit sees no mixture of both."""
    domain, _ = bench.vm()
    before = bench.stream()
    bench.watch(bench.stream)
    bench.driver.attach_domain(domain, RID)
    after = bench.stream()
    looks = [look for name, _, look in bench.unit.seen if name == "CFGI_STE"]
    assert looks == [(0, *before[1:]), (0, *after[1:]), after]


def test_a_detached_device_passes_through_and_the_vmid_is_forgotten(make_bench):
    """TLBI_S12_VMALL, and everything in the device's own TLB."""
    bench = make_bench(ats=True)
    domain, _ = bench.vm()
    bench.driver.attach_domain(domain, RID)
    bench.read(0x1000)
    bench.function.told.clear()
    bench.driver.detach_domain(domain, RID)
    assert bench.read(0x1000) == 0x1000
    assert bench.unit.caches.tlb.keys() == []
    assert InvalidateRequest(RID, None, 0, WHOLE, all_pasids=True) in bench.function.told


def test_a_vmid_is_flushed_before_it_is_used_again(bench):
    """Also if the detaching driver had forgotten to."""
    domain, _ = bench.vm("vm1")
    bench.driver.attach_domain(domain, RID)
    bench.driver.detach_domain(domain, RID)
    bench.watch(bench.driver.domains.keys)
    bench.driver.domain_free(domain)
    assert [(name, look) for name, _, look in bench.unit.seen] == [("TLBI_S12_VMALL", [domain.did])]
    again, _ = bench.vm("vm2")
    assert again.did == domain.did


def test_a_domain_in_use_is_not_freed(bench):
    """-EBUSY, and nothing was flushed."""
    domain, _ = bench.vm()
    bench.driver.attach_domain(domain, RID)
    bench.watch()
    assert bench.refused(bench.driver.domain_free, domain).name == "EBUSY"
    assert names(bench) == []


def test_vmids_run_out(make_bench):
    """-ENOSPC with 8 bits of them: VMID 0 is the host's."""
    bench = make_bench(SmmuIdentity(vmid16=False))
    for number in range(255):
        bench.driver.domain_alloc(f"vm{number}")
    assert bench.refused(bench.driver.domain_alloc, "one more").name == "ENOSPC"


def test_without_stage_2_nothing_can_be_attached(make_bench):
    """-EINVAL, and the device stays the host's."""
    bench = make_bench(SmmuIdentity(s2p=False))
    domain, _ = bench.vm()
    assert bench.refused(bench.driver.attach_domain, domain, RID).name == "EINVAL"
    assert bench.read(0x1000) == 0x1000


def test_there_are_no_default_pasids_and_no_guest_pasids_by_themselves(bench):
    """-EOPNOTSUPP with the reason and where to read it."""
    domain, _ = bench.vm()
    for call in (bench.driver.attach_aux, bench.driver.detach_aux):
        error = bench.refused(call, domain, RID, bench.host_set)
        assert (error.name, "requester ID alone" in error.reason) == ("EOPNOTSUPP", True)
    error = bench.refused(bench.driver.flush_guest, domain, 1, [RID], None)
    assert (error.name, "as a whole" in error.reason) == ("EOPNOTSUPP", True)
    error = bench.refused(bench.svm.bind_guest, RID, domain, None, bench.host_set)
    assert "docs/iommus.md" in error.reason


# --- commands that go wrong -------------------------------------------------------------------------------------------


def test_a_command_that_the_unit_does_not_know_is_skipped(bench):
    """-EIO for who gave it, a line in the log, and the queue goes on."""
    assert bench.refused(bench.driver.queue.submit, (0x7F, 0)).name == "EIO"
    assert [event.subject for event in bench.time.events if event.verb is Verb.HANDLE] == [
        "CMDQ error (cons 0x01000009): Illegal command"
    ]
    bench.driver.queue.submit(bench.driver.queue.machine(1))
    assert names(bench)[-1] == "TLBI_S12_VMALL"


def test_a_device_that_does_not_answer_is_waited_for_once(bench):
    """CERROR_ATC_INV: the CMD_SYNC is tried again and passes."""
    queue = bench.driver.queue
    assert bench.refused(queue.submit, queue.device_tlb(0x7000, None)).name == "EIO"
    queue.submit(queue.machine(1))


def test_more_commands_than_the_queue_has_room_for(bench):
    """They go in batches; the indices wrap."""
    bench.watch()
    bench.driver.queue.submit(*[bench.driver.queue.machine(vmid) for vmid in range(1, 1001)])
    assert len(bench.unit.seen) == 1000
