"""All golden vectors of VT-d, processor, PCIe and accelerator against the layouts, and the list of those to come."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.accelerator import Command, command_word, queue_bitmap, queues_of
from pasidlab.hardware.accelerator.register_map import portal_offset
from pasidlab.hardware.cpu import split_pasid
from pasidlab.hardware.iommu.vtd.invalidation import Descriptor, decode_descriptor
from pasidlab.hardware.layouts import pcie, vtd
from tests.hardware.layouts.catalogue import LAYOUTS, VECTORS
from tests.hardware.layouts.golden import inputs, layout_of, number, of, told, whole, words_of

SPLIT = ("vtd_pasid_index_split", "vmx_pasid_split")
DECODED = ("vtd_vcrsp_rev3.3_decode", "pcie_pasid_cap_decode")
COMPUTED = ("dsa_portal_offset", "pcie_ats_ctrl", "enqcmd_payload", "vtd_teardown_trace")
LATER = {
    *("smmu_ste", "smmu_cd", "smmu_ssid_split_64K", "smmu_event", "smmu_pri_entry"),
    *("smmu_cmd_atc_inv", "smmu_cmd_cfgi_all", "smmu_cmd_cfgi_cd_all", "smmu_cmd_pri_resp", "smmu_cmd_resume"),
    *("smmu_cmd_tlbi_s12_vmall", "arm_lpae_s1_page", "arm_lpae_s1_block", "arm_lpae_s2_page", "arm_lpae_table"),
    *("amd_dte", "amd_gcr3_index", "amd_gcr3_split", "amd_gcr3_walk", "amd_ppr_decode", "amd_v1_pte"),
    *("amd_cmd_complete_ppr", "amd_cmd_inv_iommu_pages", "amd_cmd_inv_iotlb_pages"),
}
"""Structures of the SMMU and of AMD's unit, which the model does not have yet."""
ENCODED = [one for one in VECTORS if one.get("fields_ref") in LAYOUTS and one["structure"] not in COMPUTED]


def test_no_vector_is_left_out():
    """Each vector is encoded and decoded, or has its own test below, or belongs to a unit that is still to come."""
    count = Counter(vector["structure"] for vector in VECTORS)
    here = Counter(vector["structure"] for vector in ENCODED)
    own = {name: count[name] for name in (*SPLIT, *DECODED, *COMPUTED)}
    later = {name: number_of for name, number_of in count.items() if name in LATER}
    assert here | own | later == count
    assert here.total() + sum(own.values()) >= 65
    assert all(own.values())


@pytest.mark.parametrize("vector", ENCODED, ids=[vector["id"] for vector in ENCODED])
def test_a_layout_encodes_and_decodes_what_the_kernel_does(vector):
    """Field values give the golden words, the golden words give the field values, and no bit is left over."""
    layout, words, values = layout_of(vector), words_of(vector), told(vector)
    assert values
    decoded = layout.decode(words)
    assert {name: decoded[name] for name in values} == values
    assert layout.encode(**values) == words
    assert layout.reserved(words) == 0
    assert layout.from_bytes(layout.to_bytes(words)) == words


@of(*(one["structure"] for one in ENCODED if "_qi_" in one["structure"]))
def test_the_queue_takes_what_the_kernel_builds(vector):
    """Each golden descriptor is decoded by the unit, narrow or wide, as what the kernel meant."""
    words = words_of(vector)
    for wide in (words, (*words, 0, 0)) if len(words) == 2 else (words,):
        descriptor = decode_descriptor(wide)
        assert isinstance(descriptor, Descriptor)
        assert descriptor.layout is layout_of(vector)
        assert descriptor.words == words


@of("vtd_pasid_index_split")
def test_a_pasid_splits_into_directory_and_table_index(vector):
    """Bits 19:6 and 5:0."""
    pasid = number(vector["inputs"]["pasid"])
    assert [pasid >> 6, pasid & 63] == list(map(number, vector["expected"]))


@of("vmx_pasid_split")
def test_a_pasid_splits_into_the_indices_of_the_processor(vector):
    """Bit 19, bits 18:10 and bits 9:0 are the three indices."""
    assert split_pasid(vector["inputs"]["pasid"]) == tuple(map(number, vector["expected"]))


@of("vtd_vcrsp_rev3.3_decode")
def test_the_newer_response_decodes(vector):
    """IP, status and PASID in the layout of revision 3.3."""
    decoded = vtd.VCRSP_REV33.decode((number(vector["inputs"]["vcrsp"]),))
    assert [decoded[name] for name in vector["expected_names"]] == list(map(number, vector["expected"]))


@of("pcie_pasid_cap_decode")
def test_the_pasid_capability_register_decodes(vector):
    """Bits of the 16-bit capability register appear in the layout's second dword."""
    decoded = pcie.PASID_CAP.decode((number(vector["inputs"]["cap"]) << 32,))
    assert [decoded["EXEC"], decoded["PRIV"], decoded["WIDTH"]] == list(map(number, vector["expected"]))


@of("pcie_ats_ctrl")
def test_the_ats_control_register_encodes(vector):
    """The 16-bit control register lies in the upper half of the layout's second dword."""
    given_ = vector["inputs"]
    assert pcie.ATS_CAP.encode(EN=given_["enable"], STU=given_["STU"])[0] >> 48 == whole(vector)


@of("dsa_portal_offset")
def test_portals_lie_four_pages_apart(vector):
    """A queue's portal page is where the driver computes it."""
    given_ = vector["inputs"]
    assert portal_offset(given_["wq"], limited=bool(given_["portal"])) == whole(vector)


@of("dsa_cmd")
def test_a_command_word_is_built_like_the_drivers(vector):
    """The helper for drivers gives the same word as the layout."""
    values = told(vector)
    assert command_word(Command(values["cmd"]), values["operand"]) | values["int_req"] << 31 == whole(vector)


@of("enqcmd_payload")
def test_an_enqueued_command_is_the_source_with_the_pasid_of_the_register(vector):
    """Bytes 4 to 63 as they were; the PASID from IA32_PASID; no privilege (the processor's test sends it)."""
    layout, words, given_ = layout_of(vector), words_of(vector), inputs(vector)
    source = (number(given_["src_qw0"]), *words[1:])
    pasid = LAYOUTS["ia32_pasid_msr"]["PASID"].get((number(given_["IA32_PASID"]),))
    assert layout.change(source, PASID=pasid, RSVD=0, PRIV=0) == words


@of("vtd_teardown_trace")
def test_the_queue_decodes_every_descriptor_of_a_real_teardown(vector):
    """What the kernel's teardown puts into the queue is accepted, and names the PASID or domain it tears down."""
    given_ = vector["inputs"]
    for step in vector["trace"]:
        if step["op"] != "qi":
            continue
        descriptor = decode_descriptor(tuple(number(word) for word in step["qw"]))
        assert isinstance(descriptor, Descriptor)
        assert descriptor.type == step["type"]
        fields = descriptor.fields()
        assert fields.get("PASID", given_["PASID"]) == given_["PASID"]
        assert fields.get("DID", given_["DID"]) == given_["DID"]
        entry = (number(step["entry_qw0"]), number(step["entry_qw1"]), 0, 0, 0, 0, 0, 0)
        assert vtd.PASID_ENTRY["P"].get(entry) == step["entry_P"]
        assert vtd.PASID_ENTRY["PGTT"].get(entry) == given_["PGTT"]
    left = vtd.PASID_ENTRY.decode(words_of(vector))
    assert {name for name, value in left.items() if value} == ({"FPD"} if given_.get("fault_ignore") else set())


@given(st.sets(st.integers(0, 15), min_size=1), st.integers(0, 15))
def test_a_queue_bitmap_names_the_queues_that_were_put_in(bits, group):
    """Combining the bitmaps of queues of one group of sixteen and taking them apart gives the same queues."""
    wqs = [16 * group + bit for bit in sorted(bits)]
    operand = 0
    for wq in wqs:
        operand |= queue_bitmap(wq)
    assert queues_of(operand) == wqs
