"""What the driver makes of the identification registers, and which units it does not take."""

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.kernel.iommu.smmuv3.capabilities import Capabilities


def read(**fields):
    """What the driver knows of a unit."""
    card = SmmuIdentity(**fields)
    return Capabilities.read(card.idr0(), card.idr1(), card.idr3(), card.idr5())


@pytest.mark.parametrize(
    ("oas", "levels", "bits"), [(52, 4, 48), (48, 4, 48), (44, 4, 44), (42, 3, 39), (36, 3, 36), (32, 3, 32)]
)
def test_the_width_of_addresses_decides_about_stage_2(oas, levels, bits):
    """Four levels from 44 bits on."""
    unit = read(oas=oas)
    assert (unit.second_levels, unit.second_bits, unit.address_bits) == (levels, bits, oas)


def test_without_stage_2_there_is_nothing_to_nest_over():
    """No levels, no nesting."""
    unit = read(s2p=False)
    assert (unit.second_levels, unit.nesting) == (0, False)


def test_linear_tables_have_at_most_1024_descriptors():
    """CTXDESC_LINEAR_CDMAX."""
    assert read(cd2l=False).ssid_bits == 10
    assert read(ssidsize=8).ssid_bits == 8


@pytest.mark.parametrize(
    ("model", "able"), [(0, (True, False, True)), (1, (False, False, True)), (2, (True, True, False))]
)
def test_a_unit_that_holds_everything_lets_no_device_use_ats(model, able):
    """A device that may be held must not translate for itself."""
    unit = read(stall_model=model)
    assert (unit.stalls, unit.forced, unit.ats) == able
    assert unit.pri is unit.ats


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"s1p": False, "ssidsize": 0}, "stage 1"),
        ({"ssidsize": 0}, "SubstreamIDs"),
        ({"gran4k": False}, "tables of 4 KiB"),
        ({"msi": False}, "interrupts by message"),
        ({"cmdqs": 6}, "a queue of more than 64 commands"),
    ],
)
def test_a_unit_without_what_is_needed_is_not_taken(make_bench, fields, word):
    """-ENODEV, and what is missing."""
    with pytest.raises(KernelError) as error:
        make_bench(SmmuIdentity(**fields))
    assert error.value.name == "ENODEV"
    assert word in str(error.value)


@pytest.mark.parametrize(
    "fields", [{"asid16": False}, {"vmid16": False}, {"ril": False}, {"cd2l": False}, {"oas": 40}, {"st_level": 0}]
)
def test_what_a_unit_may_lack(make_bench, fields):
    """A process is bound and its page reached all the same."""
    bench = make_bench(SmmuIdentity(**fields))
    space, page = bench.mm()
    bench.driver.write_process(0x6A08, 5, space)
    assert bench.read(page, 5) == space.physical(page)
