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


FLAGS = ["zf", "cf", "pf", "af", "sf", "of"]
"""The status flags."""


def flags(cpu):
    """Which are set."""
    return [flag for flag in FLAGS if getattr(cpu, flag)]


def set_every_flag(cpu):
    """As an instruction before may have left them."""
    for flag in FLAGS:
        setattr(cpu, flag, True)


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


@pytest.mark.parametrize("bit", range(64))
def test_reserved_bits_of_the_msr_are_refused_and_no_others(world, bit):
    """Bits 30:20 and 63:32 raise #GP and leave the register alone; the PASID's bits and V are written, V set or not."""
    world.cpu.write_msr(IA32_PASID, 7)
    if 20 <= bit <= 30 or bit >= 32:
        faults(world, GpReason.MSR_RESERVED, lambda: world.cpu.write_msr(IA32_PASID, 1 << bit))
        assert world.cpu.read_msr(IA32_PASID) == 7
    else:
        world.cpu.write_msr(IA32_PASID, 1 << bit)
        assert world.cpu.read_msr(IA32_PASID) == 1 << bit


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


@pytest.mark.parametrize("instruction", ["enqcmd", "enqcmds"])
def test_zf_tells_accepted_from_retry_and_the_other_flags_are_cleared(world, instruction):
    """ZF is clear after the target accepted and set after it refused; CF, PF, AF, SF and OF are clear after either."""
    world.cpu.write_msr(IA32_PASID, VALID)
    for world.target.accepts in (False, True):
        set_every_flag(world.cpu)
        assert getattr(world.cpu, instruction)(world.mmio, PORTAL, SOURCE) is world.target.accepts
        assert flags(world.cpu) == ([] if world.target.accepts else ["zf"])


def test_movdir64b_and_a_general_protection_fault_leave_the_flags_alone(world):
    """Only the two enqueues report through flags."""
    set_every_flag(world.cpu)
    world.cpu.movdir64b(world.mmio, PORTAL, SOURCE)
    with pytest.raises(GeneralProtection):
        world.cpu.enqcmd(world.mmio, PORTAL, SOURCE)
    assert flags(world.cpu) == FLAGS


def test_enqcmd_to_an_address_where_nobody_answers_is_a_retry(world):
    """Software cannot tell a full queue from an address without an enqueue register."""
    world.cpu.write_msr(IA32_PASID, VALID)
    assert not world.cpu.enqcmd(world.mmio, 0x40, SOURCE)
    assert world.cpu.zf


def test_enqcmd_without_a_valid_msr_is_a_fault(world):
    """However small the PASID in it."""
    world.cpu.write_msr(IA32_PASID, 5)
    faults(world, GpReason.PASID_INVALID, lambda: world.cpu.enqcmd(world.mmio, PORTAL, SOURCE))


@pytest.mark.parametrize("bit", range(32))
def test_each_of_the_low_32_bits_of_the_source_of_enqcmd_must_be_zero(world, bit):
    """A program names neither PASID nor privilege, nor anything in between; bit 32 belongs to the command."""
    world.cpu.write_msr(IA32_PASID, VALID)
    source = (1 << bit).to_bytes(64, "little")
    faults(world, GpReason.SOURCE_RESERVED, lambda: world.cpu.enqcmd(world.mmio, PORTAL, source))
    assert world.cpu.enqcmd(world.mmio, PORTAL, (1 << 32).to_bytes(64, "little"))


@pytest.mark.parametrize("instruction", ["enqcmd", "enqcmds", "movdir64b"])
@pytest.mark.parametrize("offset", [1, 4, 8, 32, 63])
def test_a_destination_that_is_not_a_multiple_of_64_is_a_fault(world, instruction, offset):
    """For each of the three stores, and before anything else of the instruction is looked at (our order)."""
    act = getattr(world.cpu, instruction)
    faults(world, GpReason.ALIGNMENT, lambda: act(world.mmio, PORTAL + offset, b"\xff" * 64))


def test_enqcmd_is_a_users_command_whatever_the_privilege_level(world):
    """PRIV is zero, and bits 30:20 are, in what leaves the processor."""
    world.cpu.write_msr(IA32_PASID, VALID | 0xFFFFF)
    world.cpu.enqcmd(world.mmio, PORTAL, SOURCE)
    assert int.from_bytes(world.target.enqueued[0][1][:4], "little") == 0xFFFFF


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


@pytest.mark.parametrize("cpl", [1, 2, 3])
def test_enqcmds_needs_privilege_level_0(world, cpl):
    """Whatever else may be wrong."""
    faults(world, GpReason.PRIVILEGE, lambda: world.cpu.enqcmds(world.mmio, PORTAL + 1, b"\xff" * 64, cpl))


@pytest.mark.parametrize("bit", range(32))
def test_bits_30_to_20_of_the_source_of_enqcmds_must_be_zero(world, bit):
    """The PASID's bits and PRIV are the kernel's to choose."""
    source = (1 << bit).to_bytes(64, "little")
    if 20 <= bit <= 30:
        faults(world, GpReason.SOURCE_RESERVED_SUPERVISOR, lambda: world.cpu.enqcmds(world.mmio, PORTAL, source))
    else:
        assert world.cpu.enqcmds(world.mmio, PORTAL, source)
        assert world.target.enqueued == [(0, source)]


def test_movdir64b_is_never_translated(world):
    """A posted store leaves a guest exactly as the source is, PASID bits included."""
    world.enter_guest()
    world.map(5, 105)
    source = (5).to_bytes(4, "little") + SOURCE[4:]
    world.cpu.movdir64b(world.mmio, PORTAL, source)
    assert world.target.posted == [(0, source)]
    assert Verb.TRANSLATE not in world.verbs()


def test_movdir64b_to_an_address_where_nobody_answers_is_dropped(world):
    """A posted store to nowhere vanishes, and an event says so."""
    world.cpu.movdir64b(world.mmio, 0x40, SOURCE)
    assert world.verbs()[-1] is Verb.REFUSE


def test_a_command_has_64_bytes(world):
    """Anything else is a mistake of the caller."""
    with pytest.raises(ValueError, match=r"enqcmd_command must have 64 bytes, not 63"):
        world.cpu.movdir64b(world.mmio, PORTAL, bytes(63))


def commanded(instruction, msr, source, offset, cpl):
    """What an enqueue sends, or ``None`` for #GP: the rules of the instruction's page, one by one."""
    dword = int.from_bytes(source[:4], "little")
    if offset % 64:
        return None
    if instruction == "enqcmd":
        return None if dword or msr < VALID else (msr - VALID).to_bytes(4, "little") + source[4:]
    return None if cpl or dword // (1 << 20) % (1 << 11) else source


@given(
    instruction=st.sampled_from(["enqcmd", "enqcmds"]),
    msr=st.integers(0, 0xFFFFF).map(lambda pasid: VALID | pasid) | st.integers(0, 0xFFFFF),
    dword=st.just(0) | st.integers(0, 0xFFFFF) | st.integers(0, 0xFFFF_FFFF),
    rest=st.binary(min_size=60, max_size=60),
    offset=st.just(0) | st.integers(0, 0xFFF),
    cpl=st.integers(0, 3),
)
def test_an_enqueue_equals_its_rules(instruction, msr, dword, rest, offset, cpl):
    """For any register, source, destination and privilege level: the command that goes out, or #GP and nothing."""
    world = World()
    world.cpu.write_msr(IA32_PASID, msr)
    source = dword.to_bytes(4, "little") + rest
    expected = commanded(instruction, msr, source, offset, cpl)
    more = {"cpl": cpl} if instruction == "enqcmds" else {}
    act = getattr(world.cpu, instruction)
    if expected is None:
        with pytest.raises(GeneralProtection):
            act(world.mmio, PORTAL + offset, source, **more)
    else:
        assert act(world.mmio, PORTAL + offset, source, **more)
    assert [data for _, data in world.target.enqueued] == ([] if expected is None else [expected])


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


def test_what_a_skipped_instruction_leaves_is_the_handlers_affair(world):
    """The processor itself changes no flag: those that the handler did not touch are as before the instruction."""

    def handle(cpu):
        cpu.zf = True
        return Resume.SKIP

    world.hypervisor.handle = handle
    world.enter_guest()
    world.cpu.write_msr(IA32_PASID, VALID | 1)
    world.cpu.cf = True
    assert world.cpu.enqcmd(world.mmio, PORTAL, SOURCE) is False
    assert flags(world.cpu) == ["zf", "cf"]


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
