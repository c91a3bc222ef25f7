"""The words that the driver writes, beside those that the kernel's own functions produced (golden vectors)."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from pasidlab.errors import KernelError
from pasidlab.hardware.layouts.vtd import PASID_ENTRY
from pasidlab.kernel.iommu.uapi import VTD_FLAGS, GuestPasidBind
from pasidlab.kernel.iommu.vtd import entries

GOLDEN = {
    vector["id"]: vector
    for vector in json.loads((Path(__file__).parents[3] / "data" / "golden_vectors.json").read_text())["vectors"]
}


def words_of(name):
    """The expected words of a golden vector."""
    return tuple(int(word, 0) for word in GOLDEN[name]["expected"])


def domain(did=5, root=0xABCDE000):
    """As much of a domain as an entry needs."""
    return SimpleNamespace(did=did, table=SimpleNamespace(root=root))


def test_a_second_level_entry_is_the_kernels():
    """Vector 04: P, PGTT=2, AW=2, pointer and domain id."""
    assert entries.second_level(domain(), snoop=False, supervisor=False) == words_of("vtd_pasid_entry-04")


def test_a_pass_through_entry_is_the_kernels():
    """Vector 06: P, PGTT=4, AW=2, the fixed domain id."""
    assert entries.pass_through(snoop=False, supervisor=False) == words_of("vtd_pasid_entry-06")


def test_a_first_level_entry_is_the_kernels():
    """Vector 13: pointer, no-execute, snoop, the fixed domain id."""
    assert entries.first_level(0x12345000, snoop=True) == words_of("vtd_pasid_entry-13")


def test_where_no_user_is_to_be_protected_privileged_requests_pass():
    """SRE is set on entries that do not lead through a process's page table, where the unit has it."""
    for words in (
        entries.second_level(domain(), snoop=False, supervisor=True),
        entries.pass_through(snoop=False, supervisor=True),
    ):
        assert PASID_ENTRY["SRE"].get(words) == 1


def test_a_nested_entry_has_both_pointers_and_the_domains_id():
    """PGTT=3: guest root in FLPTPTR, the domain's table in SLPTPTR; P is the only other bit."""
    words = entries.nested(GuestPasidBind(7, 0x6000, 1), domain(), snoop=False, lacks=frozenset())
    assert {name: value for name, value in PASID_ENTRY.decode(words).items() if value} == {
        "P": 1,
        "PGTT": 3,
        "AW": 2,
        "SLPTPTR": 0xABCDE000,
        "FLPTPTR": 0x6000,
        "DID": 5,
    }


@pytest.mark.parametrize("flag", ["SRE", "WPE", "EAFE"])
def test_what_the_guest_may_ask_for_is_programmed(flag):
    """SRE, WPE and EAFE go into the entry, when the unit has them."""
    words = entries.nested(
        GuestPasidBind(7, 0x6000, vtd_flags=VTD_FLAGS[flag]), domain(), snoop=True, lacks=frozenset()
    )
    assert PASID_ENTRY[flag].get(words) == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (GuestPasidBind(7, 0x6000, addr_width=57), "4-level"),
        (GuestPasidBind(7, 0x6000, addr_width=39), "4-level"),
        (GuestPasidBind(7, 0x6008), "a page below 2"),
        (GuestPasidBind(7, 1 << 48), "a page below 2"),
        *(
            (GuestPasidBind(7, 0x6000, vtd_flags=VTD_FLAGS[name]), name)
            for name in ("PCD", "PWT", "EMTE", "CD", "EAFE")
        ),
    ],
)
def test_what_a_nested_entry_cannot_do_is_einval(data, reason):
    """Facts 4.3: wrong width, a root beyond the second level, memory types, and what the unit lacks."""
    with pytest.raises(KernelError, match=reason) as refused:
        entries.nested(data, domain(), snoop=True, lacks=frozenset({"EAFE"}))
    assert refused.value.name == "EINVAL"
