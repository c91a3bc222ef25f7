"""The processor: IA32_PASID, the three 64-byte stores, general protection faults, and PASID translation in guests."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.cpu import (
    IA32_PASID,
    PASID_TRANSLATION,
    Cpu,
    ExitReason,
    GeneralProtection,
    GpReason,
    PasidFailure,
    Resume,
    Vmcs,
    VmcsField,
    translate_pasid,
)
from pasidlab.hardware.layouts.cpu import VMX_PASID_DIR_ENTRY, VMX_PASID_TABLE_ENTRY
from pasidlab.hardware.memory import PhysicalMemory
from pasidlab.hardware.mmio import AddressMap
from pasidlab.timeline import Timeline, Verb

VALID = 1 << 31
PORTAL = 0x10_0000
LOW, HIGH, TABLE = 0x1000, 0x2000, 0x3000
SOURCE = bytes(4) + bytes(range(60))


class Target:
    """An enqueue register that remembers what came; it accepts while ``accepts`` is true."""

    path = "target"

    def __init__(self):
        self.posted = []
        self.enqueued = []
        self.accepts = True

    def mmio_read(self, offset, size=8):
        return 0

    def mmio_write(self, offset, value, size=8):
        pass

    def post64(self, offset, data):
        self.posted.append((offset, data))

    def enqueue64(self, offset, data):
        self.enqueued.append((offset, data))
        return self.accepts


class Hypervisor:
    """Gets VM exits, remembers them, and does what the test told it to."""

    path = "kvm"

    def __init__(self, handle):
        self.handle = handle
        self.exits = []

    def vm_exit(self, cpu, reason, translation):
        self.exits.append((reason, translation.guest_pasid, translation.failure))
        return self.handle(cpu)


class World:
    """One processor, an address map with one target, and memory for translation tables."""

    def __init__(self, handle=lambda cpu: Resume.SKIP):
        self.time = Timeline()
        self.memory = PhysicalMemory(self.time, "ram", 1 << 20)
        self.target = Target()
        self.mmio = AddressMap(self.time, "mmio")
        self.mmio.add(PORTAL, 0x1000, self.target, "portal")
        self.hypervisor = Hypervisor(handle)
        self.cpu = Cpu(self.time, "cpu0")

    def enter_guest(self):
        vmcs = Vmcs(self.time, "vmcs", self.memory, self.hypervisor)
        vmcs.vmwrite(VmcsField.LOW_PASID_DIRECTORY, LOW)
        vmcs.vmwrite(VmcsField.HIGH_PASID_DIRECTORY, HIGH)
        vmcs.vmwrite(VmcsField.SECONDARY_CONTROLS, PASID_TRANSLATION)
        self.cpu.vmcs = vmcs

    def map(self, guest_pasid, host_pasid, directory=LOW, table=TABLE):
        self.memory.store(directory + 8 * (guest_pasid >> 10 & 511), VMX_PASID_DIR_ENTRY.encode(P=1, TABLE=table)[0])
        entry = VMX_PASID_TABLE_ENTRY.encode(V=1, HOST_PASID=host_pasid)[0]
        self.memory.store32(table + 4 * (guest_pasid & 1023), entry)

    def verbs(self):
        return [event.verb for event in self.time.events]


@pytest.fixture
def world():
    return World()


def faults(world, reason, act):
    """``act`` raises #GP for ``reason``, sends nothing, and changes no state."""
    digest = world.time.digest()
    with pytest.raises(GeneralProtection) as caught:
        act()
    assert caught.value.reason is reason
    assert world.time.digest() == digest
    assert not world.target.enqueued
    assert not world.target.posted
    assert world.time.events[-1].verb is Verb.GP_FAULT


# --- the MSR ---


def test_the_msr_keeps_pasid_and_valid_bit(world):
    """What is written to IA32_PASID is read back, and the event tells the PASID."""
    world.cpu.write_msr(IA32_PASID, VALID | 5)
    assert world.cpu.read_msr(IA32_PASID) == VALID | 5
    assert world.time.events[-1].fact("pasid") == 5
    world.cpu.write_msr(IA32_PASID, 5)
    assert world.time.events[-1].fact("pasid") is None


@pytest.mark.parametrize("bit", [20, 30, 32, 63])
def test_reserved_bits_of_the_msr_are_refused(world, bit):
    """Bits 30:20 and 63:32 raise #GP and leave the register alone."""
    faults(world, GpReason.MSR_RESERVED, lambda: world.cpu.write_msr(IA32_PASID, VALID | 1 << bit))


def test_msrs_need_privilege_and_must_exist(world):
    """An application cannot touch MSRs, and numbers that are not modelled raise #GP."""
    faults(world, GpReason.PRIVILEGE, lambda: world.cpu.write_msr(IA32_PASID, VALID, cpl=3))
    faults(world, GpReason.PRIVILEGE, lambda: world.cpu.read_msr(IA32_PASID, cpl=3))
    faults(world, GpReason.MSR_UNKNOWN, lambda: world.cpu.read_msr(0x10))


# --- ENQCMD, ENQCMDS, MOVDIR64B without a guest ---


def test_enqcmd_puts_the_msrs_pasid_into_the_payload(world):
    """The command's first dword is the PASID, the other 60 bytes come from the source."""
    world.cpu.write_msr(IA32_PASID, VALID | 0x1234)
    assert world.cpu.enqcmd(world.mmio, PORTAL + 0x40, SOURCE)
    assert world.target.enqueued == [(0x40, (0x1234).to_bytes(4, "little") + SOURCE[4:])]


def test_the_golden_payload():
    """The documented example payload comes out word by word."""
    vectors = json.loads((Path(__file__).parents[1] / "data" / "golden_vectors.json").read_text())["vectors"]
    vector = next(row for row in vectors if row["structure"] == "enqcmd_payload")
    expected = [int(word, 0) for word in vector["expected"]]
    source = [int(vector["inputs"]["src_qw0"], 0), *expected[1:]]
    world = World()
    world.cpu.write_msr(IA32_PASID, int(vector["inputs"]["IA32_PASID"], 0))
    world.cpu.enqcmd(world.mmio, PORTAL, b"".join(word.to_bytes(8, "little") for word in source))
    ((_, data),) = world.target.enqueued
    assert [int.from_bytes(data[at : at + 8], "little") for at in range(0, 64, 8)] == expected


def test_zf_tells_accepted_from_retry(world):
    """ZF is clear after the target accepted and set after it refused."""
    world.cpu.write_msr(IA32_PASID, VALID)
    world.target.accepts = False
    assert not world.cpu.enqcmd(world.mmio, PORTAL, SOURCE)
    assert world.cpu.zf
    world.target.accepts = True
    assert world.cpu.enqcmd(world.mmio, PORTAL, SOURCE)
    assert not world.cpu.zf


def test_enqcmd_to_an_address_where_nobody_answers_is_a_retry(world):
    """Software cannot tell a full queue from an address without an enqueue register."""
    world.cpu.write_msr(IA32_PASID, VALID)
    assert not world.cpu.enqcmd(world.mmio, 0x40, SOURCE)
    assert world.cpu.zf


@pytest.mark.parametrize(
    ("msr", "destination", "source", "reason"),
    [
        (5, PORTAL, SOURCE, GpReason.PASID_INVALID),
        (VALID, PORTAL + 32, SOURCE, GpReason.ALIGNMENT),
        (VALID, PORTAL, b"\1" + bytes(63), GpReason.SOURCE_RESERVED),
        (VALID, PORTAL, b"\0\0\0\x80" + bytes(60), GpReason.SOURCE_RESERVED),
    ],
)
def test_enqcmd_faults(world, msr, destination, source, reason):
    """An invalid MSR, a misaligned destination and a source that names a PASID itself each raise #GP."""
    world.cpu.write_msr(IA32_PASID, msr)
    faults(world, reason, lambda: world.cpu.enqcmd(world.mmio, destination, source))


def test_gp_comes_before_translation(world):
    """A guest with an invalid MSR gets #GP; its hypervisor sees no exit (assumed order)."""
    world.enter_guest()
    faults(world, GpReason.PASID_INVALID, lambda: world.cpu.enqcmd(world.mmio, PORTAL, SOURCE))
    assert not world.hypervisor.exits


def test_enqcmds_takes_pasid_and_privilege_from_its_source(world):
    """The kernel's variant sends its source as it is and does not look at the MSR."""
    source = (VALID | 77).to_bytes(4, "little") + SOURCE[4:]
    assert world.cpu.enqcmds(world.mmio, PORTAL, source)
    assert world.target.enqueued == [(0, source)]


@pytest.mark.parametrize(
    ("destination", "source", "cpl", "reason"),
    [
        (PORTAL, SOURCE, 3, GpReason.PRIVILEGE),
        (PORTAL, (1 << 20).to_bytes(4, "little") + bytes(60), 0, GpReason.SOURCE_RESERVED_SUPERVISOR),
        (PORTAL + 1, SOURCE, 0, GpReason.ALIGNMENT),
    ],
)
def test_enqcmds_faults(world, destination, source, cpl, reason):
    """Applications may not execute it, and reserved bits of the source raise #GP."""
    faults(world, reason, lambda: world.cpu.enqcmds(world.mmio, destination, source, cpl))


def test_movdir64b_is_never_translated(world):
    """A posted store leaves a guest exactly as the source is, PASID bits included."""
    world.enter_guest()
    world.map(5, 105)
    source = (5).to_bytes(4, "little") + SOURCE[4:]
    world.cpu.movdir64b(world.mmio, PORTAL, source)
    assert world.target.posted == [(0, source)]
    assert Verb.TRANSLATE not in world.verbs()


def test_movdir64b_needs_an_aligned_destination_and_drops_what_nobody_takes(world):
    """Misaligned raises #GP; a posted store to nowhere vanishes, and an event says so."""
    faults(world, GpReason.ALIGNMENT, lambda: world.cpu.movdir64b(world.mmio, PORTAL + 8, SOURCE))
    world.cpu.movdir64b(world.mmio, 0x40, SOURCE)
    assert world.verbs()[-1] is Verb.REFUSE


def test_a_command_has_64_bytes(world):
    """Anything else is a mistake of the caller."""
    with pytest.raises(ValueError, match=r"enqcmd_command must have 64 bytes, not 63"):
        world.cpu.movdir64b(world.mmio, PORTAL, bytes(63))


# --- translation in a guest ---


def test_a_guest_pasid_is_replaced_on_its_way_out(world):
    """ENQCMD and ENQCMDS carry the host's PASID, and the event tells both numbers under the instruction's event."""
    world.enter_guest()
    world.map(1, 101)
    world.cpu.write_msr(IA32_PASID, VALID | 1)
    assert world.cpu.enqcmd(world.mmio, PORTAL, SOURCE)
    assert world.cpu.enqcmds(world.mmio, PORTAL, (VALID | 1).to_bytes(4, "little") + SOURCE[4:])
    assert [data[:4] for _, data in world.target.enqueued] == [
        (101).to_bytes(4, "little"),
        (VALID | 101).to_bytes(4, "little"),
    ]
    enqcmd, translate = world.time.events[1:3]
    assert (enqcmd.verb, translate.verb, translate.cause) == (Verb.ENQCMD, Verb.TRANSLATE, enqcmd.number)
    assert (translate.fact("guest_pasid"), translate.fact("host_pasid")) == (1, 101)


def test_without_the_control_bit_nothing_is_translated(world):
    """Clearing secondary control 21 sends the guest's own number."""
    world.enter_guest()
    world.cpu.vmcs.vmwrite(VmcsField.SECONDARY_CONTROLS, 0)
    world.cpu.write_msr(IA32_PASID, VALID | 9)
    assert world.cpu.enqcmd(world.mmio, PORTAL, SOURCE)
    assert world.target.enqueued[0][1][0] == 9


@pytest.mark.parametrize(
    ("guest_pasid", "directory", "dir_index", "table_index"),
    [
        (101, LOW, 0, 101),
        (0x400, LOW, 1, 0),
        (0x7FFFF, LOW, 511, 1023),
        (0x80000, HIGH, 0, 0),
        (0xFFFFF, HIGH, 511, 1023),
    ],
)
def test_where_a_guest_pasid_is_looked_up(world, guest_pasid, directory, dir_index, table_index):
    """The walk reads the directory entry and the table entry that the PASID's bits name."""
    world.map(guest_pasid, 7, directory)
    translation = translate_pasid(world.memory, LOW, HIGH, guest_pasid)
    assert [stop.address for stop in translation.stops] == [directory + 8 * dir_index, TABLE + 4 * table_index]
    assert translation.host_pasid == 7
    assert translation.failure is None


@pytest.mark.parametrize(
    ("directory", "entry", "failure"),
    [
        (0, 0, PasidFailure.DIRECTORY_NOT_PRESENT),
        (TABLE | 3, 0, PasidFailure.DIRECTORY_RESERVED),
        (TABLE | 1, 0, PasidFailure.ENTRY_NOT_VALID),
        (TABLE | 1, 101, PasidFailure.ENTRY_NOT_VALID),
        (TABLE | 1, VALID | 1 << 20, PasidFailure.ENTRY_RESERVED),
        (1 << 40 | 1, 0, PasidFailure.ENTRY_RESERVED),
    ],
)
def test_why_a_translation_fails(world, directory, entry, failure):
    """Absent entries and reserved bits fail; a table outside memory reads as ones, hence as reserved bits."""
    world.memory.store(LOW, directory)
    world.memory.store32(TABLE + 4, entry)
    translation = translate_pasid(world.memory, LOW, HIGH, 1)
    assert (translation.host_pasid, translation.failure) == (None, failure)
    assert failure.value in str(translation)


@pytest.mark.parametrize("reason", ExitReason)
def test_a_failed_translation_exits_to_the_hypervisor(world, reason):
    """Exit 72 for ENQCMD, 73 for ENQCMDS; a skipped instruction leaves the flag that the handler set."""

    def handle(cpu):
        cpu.zf = True
        return Resume.SKIP

    world.hypervisor.handle = handle
    world.enter_guest()
    world.cpu.write_msr(IA32_PASID, VALID | 1)
    if reason is ExitReason.ENQCMD_PASID_TRANSLATION:
        accepted = world.cpu.enqcmd(world.mmio, PORTAL, SOURCE)
    else:
        accepted = world.cpu.enqcmds(world.mmio, PORTAL, (1).to_bytes(4, "little") + SOURCE[4:])
    assert not accepted
    assert world.hypervisor.exits == [(reason, 1, PasidFailure.DIRECTORY_NOT_PRESENT)]
    assert not world.target.enqueued
    assert world.time.events[-1].fact("reason") == (72 if reason is ExitReason.ENQCMD_PASID_TRANSLATION else 73)


def test_a_hypervisor_may_repair_the_table_and_let_the_guest_try_again(world):
    """After RETRY the instruction runs again and uses the new entry."""

    def handle(cpu):
        world.map(1, 101)
        return Resume.RETRY

    world.hypervisor.handle = handle
    world.enter_guest()
    world.cpu.write_msr(IA32_PASID, VALID | 1)
    assert world.cpu.enqcmd(world.mmio, PORTAL, SOURCE)
    assert len(world.hypervisor.exits) == 1
    assert world.target.enqueued[0][1][0] == 101


def test_a_hypervisor_that_repairs_nothing_is_a_livelock(world):
    """The model stops where silicon would exit for ever."""
    world.hypervisor.handle = lambda cpu: Resume.RETRY
    world.enter_guest()
    world.cpu.write_msr(IA32_PASID, VALID | 1)
    with pytest.raises(RuntimeError, match="must stop exiting within 16 VM exits"):
        world.cpu.enqcmd(world.mmio, PORTAL, SOURCE)


def test_halves_of_vmcs_fields_can_be_written_apart(world):
    """An odd encoding is the upper half; a directory must be page aligned; unknown fields are named."""
    vmcs = Vmcs(world.time, "vmcs", world.memory)
    vmcs.vmwrite(0x2038, 0x5000)
    vmcs.vmwrite(0x2039, 1)
    assert (vmcs.low_pasid_directory, vmcs.vmread(0x2039)) == (0x1_0000_5000, 1)
    with pytest.raises(ValueError, match="must be a multiple of 0x1000, not 0x8"):
        vmcs.vmwrite(0x203A, 8)
    with pytest.raises(ValueError, match=r"a VMCS field must be one of .* not 0x401f"):
        vmcs.vmread(0x401F)


# --- the obvious twin ---


@given(
    pasid=st.integers(0, 0xFFFFF),
    directory=st.one_of(st.just(TABLE | 1), st.integers(0, TABLE | 0xFFF)),
    entry=st.one_of(st.integers(0, 0xFFFFF).map(lambda host: host | VALID), st.integers(0, 0xFFFF_FFFF)),
)
def test_translation_equals_ten_naive_lines(pasid, directory, entry):
    """For any PASID and any two entries the walk and a naive reading of the bytes agree."""
    memory = PhysicalMemory(Timeline(), "ram", 1 << 16)
    memory.store([LOW, HIGH][pasid // 0x80000] + pasid % 0x80000 // 1024 * 8, directory)
    memory.store32((directory & ~0xFFF) + pasid % 1024 * 4, entry)
    if (directory & ~0xFFF) in (LOW, HIGH):
        return  # the table lies over a directory: the two stores above may have met
    expected = None
    word = int.from_bytes(memory.read((HIGH if pasid >= 1 << 19 else LOW) + (pasid >> 10) % 512 * 8, 8), "little")
    if word % 4096 == 1:
        row = int.from_bytes(memory.read(word - 1 + pasid % 1024 * 4, 4), "little")
        if row >> 20 == 0b1000_0000_0000:
            expected = row % (1 << 20)
    assert translate_pasid(memory, LOW, HIGH, pasid).host_pasid == expected
