"""The bind data as bytes, and the checks of the generic layer in their order (facts 4.1)."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.errors import KernelError
from pasidlab.kernel.iommu.uapi import BIND_DATA, GENERIC_CHECKS, GPASID_VAL, HPASID_DEF, GuestPasidBind

GOOD = GuestPasidBind(101, 0x6000, 1)
LAYOUT = struct.Struct("<IIIIQQQQQQII")
"""The C structure: four u32, five u64 with the padding, and the VT-d part (u64, u32, u32)."""


def raw(**change):
    """The structure with some fields changed, by the C layout alone."""
    values = {"argsz": 72, "version": 1, "format": 1, "addr_width": 48, "flags": 1, "gpgd": 0x6000, "hpasid": 101}
    values |= {"gpasid": 1, "padding": 0, "vtd_flags": 0, "pat": 0, "emt": 0}
    return LAYOUT.pack(*(values | change).values())


def refused(call, *args):
    """The error of a call that must be refused."""
    with pytest.raises(KernelError) as error:
        call(*args)
    return error.value


def test_the_bytes_are_those_of_the_c_structure():
    """72 of them, with GPASID_VAL in the flags because the guest's number is given."""
    assert GOOD.to_bytes() == raw()
    assert GuestPasidBind.from_bytes(raw()) == GOOD
    assert BIND_DATA.size == LAYOUT.size == 72


@given(
    st.builds(
        GuestPasidBind,
        *[st.integers(0, (1 << 64) - 1)] * 2,
        st.none() | st.integers(0, (1 << 64) - 1),
        st.integers(0, (1 << 32) - 1),
        st.integers(0, (1 << 64) - 1),
        st.integers(0, (1 << 32) - 1),
        st.integers(0, (1 << 63) - 1).map(lambda flags: flags << 1),
        st.just(72),
        st.integers(0, (1 << 32) - 1),
        st.integers(0, (1 << 64) - 1),
        *[st.integers(0, (1 << 32) - 1)] * 2,
    )
)
def test_any_record_comes_back_from_its_bytes(data):
    """Every field, whether it makes sense or not."""
    assert GuestPasidBind.from_bytes(data.to_bytes()) == data


def test_a_guest_number_without_its_flag_is_not_one():
    """gpasid is looked at only with GPASID_VAL."""
    assert GuestPasidBind.from_bytes(raw(flags=0, gpasid=9)).gpasid is None
    assert GuestPasidBind.from_bytes(raw(flags=HPASID_DEF)).flags == HPASID_DEF
    assert GuestPasidBind.from_bytes(raw(flags=GPASID_VAL | HPASID_DEF)) == GOOD._replace(flags=HPASID_DEF)


def test_what_lies_beyond_argsz_is_zero():
    """The VT-d part was not given: it is not read, and argsz tells the driver."""
    data = GuestPasidBind.from_bytes(raw(argsz=56, vtd_flags=1)[:56])
    assert (data.argsz, data.vtd_flags) == (56, 0)
    assert GuestPasidBind.from_bytes(raw(argsz=64, vtd_flags=1, pat=7)).pat == 0


def test_a_newer_structure_is_cut_to_what_the_kernel_knows():
    """More bytes than 72 are not an error."""
    assert GuestPasidBind.from_bytes(raw(argsz=100) + bytes(28)) == GOOD._replace(argsz=100)


@pytest.mark.parametrize(
    ("data", "errno"),
    [
        (b"", "EFAULT"),
        (raw()[:55], "EFAULT"),
        (raw(argsz=55)[:56], "EINVAL"),
        (raw(argsz=0), "EINVAL"),
        (raw()[:56], "EFAULT"),
        (raw()[:71], "EFAULT"),
    ],
    ids=["nothing", "less than the common part", "argsz 55", "argsz 0", "less than argsz", "one byte less"],
)
def test_what_cannot_be_copied(data, errno):
    """-EFAULT for bytes that are not there, -EINVAL for an argsz that does not cover the common part."""
    assert refused(GuestPasidBind.from_bytes, data).name == errno


FAULTS = {
    "argsz": {"argsz": 55},
    "version": {"version": 2},
    "format": {"format": 2},
    "flags": {"flags": 4},
    "padding": {"padding": 1},
}


def test_the_generic_rows_are_these():
    """In this order, each -EINVAL."""
    assert [(check.name, check.errno) for check in GENERIC_CHECKS] == [(name, "EINVAL") for name in FAULTS]


@pytest.mark.parametrize("name", FAULTS)
def test_each_generic_mistake_is_einval(name):
    """One at a time; well-formed data passes."""
    GOOD.check()
    error = refused(GOOD._replace(**FAULTS[name]).check)
    assert (error.name, name in error.reason) == ("EINVAL", True)


def test_of_two_generic_mistakes_the_earlier_one_is_reported():
    """Every pair."""
    for at, first in enumerate(FAULTS):
        for second in list(FAULTS)[at + 1 :]:
            assert first in refused(GOOD._replace(**FAULTS[first], **FAULTS[second]).check).reason


@pytest.mark.parametrize("flag", range(64))
def test_flags_that_do_not_exist_are_refused(flag):
    """Also in the upper half of the 64 bits."""
    data = GOOD._replace(flags=1 << flag)
    if flag < 2:
        data.check()
    else:
        assert "flags" in refused(data.check).reason
