"""The words that the driver writes are those of the kernel's own code (golden vectors of class kernel_function)."""

import json
from pathlib import Path

import pytest

from pasidlab.hardware.iommu.amdvi.identity import AmdIdentity
from pasidlab.hardware.pcie import PageGroupResponse
from pasidlab.kernel.iommu.amdvi import entries
from pasidlab.kernel.iommu.amdvi.capabilities import Capabilities

DATA = Path(__file__).parents[3] / "data" / "golden_vectors.json"
GOLDEN = {vector["id"]: vector for vector in json.loads(DATA.read_text())["vectors"]}
WHOLE = 1 << 64


def number(value):
    """A number, or text like ``0x10``."""
    return value if isinstance(value, int) else int(value, 0)


def written_by_kernel(structure):
    """The names of the vectors of a structure that kernel functions produced."""
    return [
        name
        for name, vector in GOLDEN.items()
        if vector["structure"] == structure and vector["class"] == "kernel_function"
    ]


def expected(name):
    """The words of a vector, as 64-bit words."""
    vector = GOLDEN[name]
    words = [number(word) for word in vector["expected"]]
    if vector["word_bits"] == 64:
        return tuple(words)
    return tuple(low | high << 32 for low, high in zip(words[::2], words[1::2], strict=True))


def span(inputs):
    """Start and size of the pages that a command's inputs name."""
    if inputs["addr"] == "all":
        return 0, WHOLE
    return number(inputs["addr"]), number(inputs.get("bytes", 4096))


@pytest.mark.parametrize("name", [name for name in written_by_kernel("amd_dte") if not GOLDEN[name]["inputs"]["Mode"]])
def test_an_entry_with_a_gcr3_table_has_the_kernels_words(name):
    """set_dte_entry of Linux 6.1: pass-through for requests without PASID, a GCR3 table for the others."""
    at = GOLDEN[name]["inputs"]
    words = entries.pass_through(at["DomainID"], ats=bool(at.get("I")))
    if at.get("GV"):
        table = entries.GuestTable(
            number(at["GCR3"]), at["GLX"] + 1, giov=bool(at.get("GIOV")), ppr=bool(at.get("PPR"))
        )
        words = entries.with_table(words, table)
    assert words == expected(name)


@pytest.mark.parametrize("name", written_by_kernel("amd_gcr3_walk"))
def test_the_gcr3_table_is_built_as_the_kernel_builds_it(bench, name):
    """__get_gcr3_pte with two levels: which slot of the root, and what the leaf says."""
    at, (_, valid, leaf) = GOLDEN[name]["inputs"], expected(name)
    table = bench.driver.entry_table(0x6A08)
    assert table.levels == at["glx"] + 1
    table.write(at["pasid"], entries.gcr3_entry(number(at["cr3"])))
    slot = bench.memory.load(table.root + (at["pasid"] >> 9) * 8)
    assert slot & 1 == valid
    assert bench.memory.load((slot & ~0xFFF) + (at["pasid"] & 511) * 8) == leaf


@pytest.mark.parametrize("name", written_by_kernel("amd_cmd_inv_iommu_pages"))
def test_an_invalidation_of_pages_has_the_kernels_words(bench, name):
    """build_inv_iommu_pages: a page, a range in the low ones of the address, everything; host and guest."""
    at, queue = GOLDEN[name]["inputs"], bench.driver.queue
    start, size = span(at)
    if at.get("GN"):
        assert queue.pasid_pages(at["domid"], at["PASID"], start, size) == expected(name)
    else:
        assert queue.domain_pages(at["domid"], start, size) == expected(name)


@pytest.mark.parametrize("name", written_by_kernel("amd_cmd_inv_iotlb_pages"))
def test_an_invalidation_of_a_device_has_the_kernels_words(bench, name):
    """build_inv_iotlb_pages: the PASID is split, the queue is the device's own."""
    at, queue = GOLDEN[name]["inputs"], bench.driver.queue
    start, size = span(at)
    rid = number(at["devid"])
    if at.get("GN"):
        assert queue.device_pasid_pages(rid, at["PASID"], start, size, at["qdep"]) == expected(name)
    else:
        assert queue.device_pages(rid, start, size, at["qdep"]) == expected(name)


@pytest.mark.parametrize("name", written_by_kernel("amd_cmd_complete_ppr"))
def test_an_answer_to_a_page_request_has_the_kernels_words(bench, name):
    """build_complete_ppr: nine bits of tag."""
    at = GOLDEN[name]["inputs"]
    response = PageGroupResponse(number(at["devid"]), at.get("PASID"), at["tag"], at["status"])
    assert bench.driver.queue.page_response(response) == expected(name)


def test_there_are_vectors_of_every_structure_that_the_driver_writes():
    """Otherwise the tests above would be empty."""
    for structure in ("amd_dte", "amd_gcr3_walk", "amd_cmd_inv_iommu_pages", "amd_cmd_inv_iotlb_pages"):
        assert written_by_kernel(structure), structure


def test_a_device_without_a_known_depth_is_sent_32_invalidations_at_once(bench):
    """A queue depth of 0 in the ATS capability stands for 32."""
    words = bench.driver.queue.device_pages(0x6A01, 0x1234_5000, 4096)
    assert words[0] >> 24 & 0xFF == 32


def test_what_an_entry_means_is_told_in_words():
    """Blocked, pass-through, host table, and what an entry of zeros would be."""
    through = entries.pass_through(3, ats=False)
    assert entries.meaning_of(entries.blocked()) == "blocked"
    assert entries.meaning_of(through) == "pass-through"
    assert entries.meaning_of(entries.with_table(through, entries.GuestTable(0x5000, 1))) == (
        "pass-through and GCR3 table"
    )
    assert entries.meaning_of((0, 0, 0, 0)) == "everything passes"


@pytest.mark.parametrize(("hats", "levels"), [(0, 4), (1, 5), (2, 6)])
def test_the_host_table_has_the_levels_that_it_is_built_with(make_bench, hats, levels):
    """Four levels, whatever the unit could walk; the unit's most is what the registers say."""
    bench = make_bench(AmdIdentity(hats=hats))
    domain = bench.vm()
    words = entries.host_table(domain, bench.driver.second_levels, 7, ats=False)
    assert bench.driver.second_levels == levels
    assert words[0] & 0xFFF == 0x803
    assert words[0] & 0xF_FFFF_FFFF_F000 == domain.table.root


def test_a_unit_without_host_translation_takes_no_domain(bench):
    """As a guest's unit: there is nothing that could bound a device."""
    domain = bench.vm()
    guest = AmdIdentity.guest()
    unit = Capabilities.read(guest.efr(), guest.efr2())
    error = bench.refused(entries.host_table, domain, unit.second_levels, 7, ats=False)
    assert error.name == "EINVAL"
    assert "host table" in error.reason
