"""One interface's registers against their naive twin: any stores, any commands, any capabilities switched on or off."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.config_space import ATS_CAPABILITY, COMMAND, PASID_CAPABILITY, PRI_CAPABILITY
from pasidlab.hardware.layouts.dsa import CMDSTS, WQCFG
from tests.twins.naive_interface import NaiveInterface
from tests.worlds import World

COURSES = settings(
    deadline=None,
    derandomize=True,
    max_examples=25,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow],
)
PASIDS = st.sampled_from([0, 1, 2, 3, 4, 5]) | st.integers(0, 0xFFFFF)
WORDS = st.builds(lambda pasid, bits: pasid << 8 | bits, PASIDS, st.sampled_from([0, 1 << 28, 3 << 28, 0xC000_00FF]))
WORDS |= st.integers(0, 0xFFFF_FFFF)
LIKELY = st.builds(
    lambda pasid, bits: bits << 28 | pasid << 8, st.sampled_from([0, 1, 1, 2, 2, 3]), st.sampled_from([0, 1, 1, 3])
)
"""Words that a driver would write, for PASIDs that mostly are the VM's."""
OPERANDS = st.sampled_from([0, 1, 1, 1, 2, 3, 0x10001]) | st.integers(0, 0xFFFFF)


class Interface(RuleBasedStateMachine):
    """Both hear the same; after each step answers, hardware, references and every rule of the machine are compared."""

    queue = "dedicated"

    def __init__(self) -> None:
        super().__init__()
        self.world = world = World()
        vm = world.vm("vm1", "shared", self.queue)
        for name in ("one", "two"):
            vm.spawn(name).bind(vm.devices[0])
        self.vm = vm
        self.mdev = vm.vmm.mdevs["adi1"]
        self.bar0 = vm.kernel.accelerators["adi1"].bar0
        self.mmio = vm.kernel.platform.mmio
        default = vm.vmm.container.domain.default_pasid
        assert default is not None
        self.twin = NaiveInterface(self.queue == "dedicated", dict(vm.pasids), default)
        self.command(5, 0)

    @rule(number=st.integers(0, 15) | st.sampled_from([1, 6, 6, 6, 7, 10]), operand=OPERANDS)
    def command(self, number: int, operand: int) -> None:
        """Any command with any operand gives the twin's error code."""
        self.mmio.write(self.bar0 + at.CMD, number << 20 | operand, 4)
        status = CMDSTS.decode((self.mmio.read(self.bar0 + at.CMDSTS, 4),))
        expected = self.twin.command(number, operand)
        if number == 13 and operand % 0x10000 == 1:
            expected = 0x42
        assert (status["err"], status["active"]) == (expected, 0), (number, operand)

    @rule(word=WORDS)
    def store(self, word: int) -> None:
        """WQCFG dword 2."""
        self.mmio.write(self.bar0 + at.wqcfg_offset(0, 2), word, 4)
        self.twin.store(word)

    @rule(word=LIKELY)
    def enable_with(self, word: int) -> None:
        """The order in which a driver does it: capabilities, stop, program, start."""
        self.bus_master(True)
        for which in ("pasid_on", "requests_on", "ats_on"):
            self.capability(which, True)
        self.command(1, 0)
        self.command(7, 1)
        self.store(word)
        self.command(6, 0)

    @rule(dword=st.sampled_from([0, 1, 3, 4, 5, 6, 7]), word=st.integers(0, 0xFFFF_FFFF))
    def store_elsewhere(self, dword: int, word: int) -> None:
        """No other part of WQCFG can be written."""
        before = self.mdev.wqcfg(0)
        self.mmio.write(self.bar0 + at.wqcfg_offset(0, dword), word, 4)
        assert self.mdev.wqcfg(0) == before

    @rule(on=st.booleans())
    def bus_master(self, on: bool) -> None:
        """The command register of the configuration space."""
        self.mdev.config.write(COMMAND, on << 2 | 2)
        self.twin.bus_master = on

    @rule(which=st.sampled_from(["pasid_on", "requests_on", "ats_on"]), on=st.booleans())
    def capability(self, which: str, on: bool) -> None:
        """The enable bit of one capability."""
        offset, bit = {
            "pasid_on": (PASID_CAPABILITY + 4, 1 << 16),
            "requests_on": (PRI_CAPABILITY + 4, 1),
            "ats_on": (ATS_CAPABILITY + 4, 1 << 31),
        }[which]
        word = self.mdev.config.read(offset)
        self.mdev.config.write(offset, word & ~bit | on * bit)
        setattr(self.twin, which, on)

    @rule(bus_master=st.booleans(), on=st.tuples(st.booleans(), st.booleans(), st.booleans()))
    def start_with(self, bus_master: bool, on: tuple[bool, bool, bool]) -> None:
        """The device is started again with these capabilities."""
        self.bus_master(bus_master)
        for which, wanted in zip(("pasid_on", "requests_on", "ats_on"), on, strict=True):
            self.capability(which, wanted)
        self.command(2, 0)
        self.command(1, 0)

    @invariant()
    def same(self) -> None:
        """What the guest reads back, what hardware has, what is held."""
        twin, config = self.twin, WQCFG.decode(self.mdev.wqcfg(0))
        assert (self.mdev.enabled, self.mdev.wq_enabled(0)) == (twin.device_on, twin.queue_on)
        assert (config["pasid"], config["pasid_en"], config["priv"]) == (twin.pasid, twin.pasid_en, twin.priv)
        words = WQCFG.decode(self.world.m.accelerators["dsa0"].wqcfg(self.mdev.queue.index))
        hardware = (words["wq_state"], words["pasid_en"], words["pasid"], words["priv"])
        assert hardware == (twin.hardware if twin.dedicated else (1, 1, 0, 0))
        held = [pasid for pasid, record in self.world.core.ids.items() if "vdcm:adi1" in record.holders]
        assert held == ([] if twin.held is None else [twin.held])
        assert self.world.m.check().ok, self.world.m.check()


class SharedInterface(Interface):
    """The same for an interface of a shared queue."""

    queue = "shared"


@pytest.mark.parametrize("kind", [Interface, SharedInterface])
def test_an_interface_equals_its_twin(kind: type[Interface]) -> None:
    """Error codes, registers, hardware and references, in any order of anything that a guest can do."""
    run_state_machine_as_test(kind, settings=COURSES)


def test_the_twin_and_the_model_start_a_queue_alike() -> None:
    """The way that every driver takes, so that the machine above does not compare refusals only."""
    machine = Interface()
    for word in (1 << 28 | 1 << 8, 3 << 28 | 2 << 8, 0, 1 << 28, 1 << 28 | 9 << 8):
        machine.enable_with(word)
        machine.same()
