"""The bus: configuration space by requester ID, 4 KiB a function, as loads and stores of 4 and 8 bytes."""

import pytest

from pasidlab.hardware.accelerator.registers import DSA
from pasidlab.hardware.bus import ECAM_SIZE, PcieBus
from pasidlab.hardware.config_space import BUS_MASTER, COMMAND, PASID_CAPABILITY, ConfigSpace
from pasidlab.hardware.layouts.pcie import PASID_CAP
from pasidlab.timeline import Timeline

RID = 0x6A08
ABSENT = 0xFFFF_FFFF


class Function:
    """An endpoint that is nothing but its configuration space."""

    def __init__(self, timeline):
        self.path = "function"
        self.config = ConfigSpace(timeline, "function.config", DSA)

    def invalidate(self, request):
        """There is no TLB."""

    def page_response(self, response):
        """Nobody asked."""

    def resumed(self, tag, *, retry):
        """Nothing is held."""


@pytest.fixture
def bus():
    """One function."""
    time = Timeline()
    bus = PcieBus(time, "bus")
    bus.endpoints[RID] = Function(time)
    return bus


def at(rid, register=0):
    """The offset of a register in the window."""
    return rid << 12 | register


def test_the_window_has_room_for_every_requester_id():
    """2^16 functions of 4 KiB: the size of one PCI segment."""
    assert at(1 << 16) == ECAM_SIZE


def test_a_function_that_is_not_there_reads_as_all_ones(bus):
    """In both widths; stores to it are lost."""
    assert bus.mmio_read(at(RID + 1), 4) == ABSENT
    assert bus.mmio_read(at(RID + 1)) == (1 << 64) - 1
    bus.mmio_write(at(RID + 1, COMMAND), 0)
    assert bus.mmio_read(at(RID + 1), 4) == ABSENT


def test_a_load_of_8_bytes_is_two_registers(bus):
    """The lower register in the lower half."""
    low, high = (bus.mmio_read(at(RID, PASID_CAPABILITY + step), 4) for step in (0, 4))
    assert bus.mmio_read(at(RID, PASID_CAPABILITY)) == low | high << 32
    assert PASID_CAP["WIDTH"].get((low | high << 32,)) == 20


def test_a_store_changes_what_is_writable(bus):
    """4 bytes change one register, 8 bytes two; read-only bits stay."""
    config = bus.endpoints[RID].config
    identity = bus.mmio_read(at(RID), 4)
    bus.mmio_write(at(RID), 0, 4)
    assert bus.mmio_read(at(RID), 4) == identity
    bus.mmio_write(at(RID, COMMAND), 0, 4)
    assert not config.bus_master
    bus.mmio_write(at(RID), BUS_MASTER << 32)
    assert config.bus_master
    assert bus.mmio_read(at(RID), 4) == identity


def test_each_function_has_its_own_registers(bus):
    """What is switched off in one stays on in the other."""
    bus.endpoints[RID + 8] = Function(bus.timeline)
    bus.mmio_write(at(RID + 8, COMMAND), 0, 4)
    assert bus.endpoints[RID].config.bus_master
    assert not bus.endpoints[RID + 8].config.bus_master


def test_configuration_space_takes_no_64_byte_stores(bus):
    """A posted one is lost, an enqueue store is told to retry."""
    before = bus.timeline.digest()
    bus.post64(at(RID), bytes(64))
    assert bus.enqueue64(at(RID), bytes(64)) is False
    assert bus.timeline.digest() == before


def test_a_bus_without_functions_has_no_configuration():
    """And says so."""
    bus = PcieBus(Timeline(), "bus")
    assert bus.config_of(RID) is None
