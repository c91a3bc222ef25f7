"""All golden vectors of the three IOMMUs, processor, PCIe and accelerator against the layouts."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.accelerator import Command, command_word, queue_bitmap, queues_of
from pasidlab.hardware.accelerator.register_map import portal_offset
from pasidlab.hardware.cpu import split_pasid
from pasidlab.hardware.iommu.smmuv3.fault_log import encode_event
from pasidlab.hardware.iommu.smmuv3.faults import Blocked, SmmuEvent
from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.iommu.smmuv3.invalidation import Command as SmmuCommand
from pasidlab.hardware.iommu.smmuv3.invalidation import decode_command
from pasidlab.hardware.iommu.smmuv3.page_queue import decode_page_request, encode_page_request
from pasidlab.hardware.iommu.smmuv3.rules import SmmuRules
from pasidlab.hardware.iommu.vtd.invalidation import Descriptor, decode_descriptor
from pasidlab.hardware.layouts import pcie, vtd
from pasidlab.hardware.layouts.amd import DTE, gcr3_fields, gcr3_root
from pasidlab.hardware.layouts.amd_queue import PPR_ENTRY
from pasidlab.hardware.layouts.smmu import CD, STE
from pasidlab.hardware.pcie import Access, DmaRequest
from tests.hardware.iommu.amdvi.by_hand import GCR3, RID, Bench
from tests.hardware.iommu.smmuv3.by_hand import Bench as SmmuBench
from tests.hardware.layouts.catalogue import LAYOUTS, VECTORS
from tests.hardware.layouts.golden import inputs, layout_of, number, of, told, whole, words_of

SPLIT = ("vtd_pasid_index_split", "vmx_pasid_split", "amd_gcr3_index", "amd_gcr3_split", "smmu_ssid_split_64K")
DECODED = ("vtd_vcrsp_rev3.3_decode", "pcie_pasid_cap_decode", "amd_ppr_decode")
COMPUTED = ("dsa_portal_offset", "pcie_ats_ctrl", "enqcmd_payload", "vtd_teardown_trace", "amd_gcr3_walk")
QUIET = "smmu_cd-04"
"""A context descriptor whose inputs are the state before it."""
ENCODED = [
    one
    for one in VECTORS
    if one.get("fields_ref") in LAYOUTS and one["structure"] not in COMPUTED and one["id"] != QUIET
]


def test_no_vector_is_left_out():
    """Each vector is encoded and decoded, or has its own test below."""
    count = Counter(vector["structure"] for vector in VECTORS)
    here = Counter(vector["structure"] for vector in ENCODED)
    own = {name: count[name] for name in (*SPLIT, *DECODED, *COMPUTED)}
    here[next(vector["structure"] for vector in VECTORS if vector["id"] == QUIET)] += 1
    assert here | own == count
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


@of("amd_gcr3_split")
def test_a_gcr3_root_splits_into_three_fields(vector):
    """Bits 14:12, 30:15 and 51:31, and together they are the root again."""
    root = number(vector["inputs"]["gcr3_root"])
    fields = gcr3_fields(root)
    assert list(fields.values()) == list(map(number, vector["expected"]))
    assert gcr3_root(DTE.encode(**fields)) == root


@of("amd_gcr3_index")
def test_a_pasid_splits_into_the_indices_of_gcr3_tables(vector):
    """Nine bits a level: the walk of three levels reads these entries."""
    pasid, expected = vector["inputs"]["pasid"], list(map(number, vector["expected"]))
    bench = Bench(pasmax=19)
    bench.dte(GV=1, GLX=2)
    bench.gcr3(pasid=pasid, levels=3)
    stops = [stop for stop in bench.unit.walk(bench.request(pasid=pasid)).stops if stop.name == "GCR3 entry"]
    assert [stop.address >> 3 & 511 for stop in stops] == expected


@of("amd_gcr3_walk")
def test_a_gcr3_table_of_the_kernel_is_walked(vector):
    """Entries as the kernel writes them lead to the CR3 that it was given."""
    given_, (_, _, leaf) = vector["inputs"], map(number, vector["expected"])
    bench = Bench()
    bench.dte(GV=1, GLX=given_["glx"])
    bench.memory.store(bench.gcr3(pasid=given_["pasid"], levels=given_["glx"] + 1), leaf)
    root = bench.memory.load(GCR3 + (given_["pasid"] >> 9) * 8)
    assert root & 1 == 1
    found = bench.unit.find_gcr3(RID, given_["pasid"])
    assert found.gcr3 is not None
    assert found.gcr3.word == number(given_["cr3"]) | 1


@of("amd_ppr_decode")
def test_a_page_request_entry_decodes(vector):
    """Type, flags, device, tag and PASID as the kernel's macros read them."""
    at = PPR_ENTRY.decode((number(vector["inputs"]["ppr_qword0"]), 0))
    pasid = at["PASID_HI"] << 16 | at["PASID_LO"]
    assert [at["TYPE"], at["FLAGS"], at["devid"], at["tag"], pasid] == list(map(number, vector["expected"]))


# --- SMMUv3 -----------------------------------------------------------------------------------------------------------


@of("smmu_ssid_split_64K")
def test_a_substream_splits_into_leaf_and_number(vector):
    """Bits 19:10 and 9:0: the look-up in a two-level table of 64 KiB leaves reads these entries."""
    ssid, (leaf, number_in_leaf) = number(vector["inputs"]["ssid"]), map(number, vector["expected"])
    bench = SmmuBench()
    bench.ste(S1DSS=0)
    bench.cd(ssid)
    table, descriptor = bench.unit.walk(bench.request(pasid=ssid)).stops[2:4]
    assert table.address == bench.CONTEXTS + 8 * leaf
    assert descriptor.address == bench.LEAF + 64 * number_in_leaf


@of("smmu_cd")
def test_the_kernels_context_descriptors_are_valid(vector):
    """A descriptor of SVA translates; the one that a release leaves behind (EPD0) is valid and translates nothing."""
    rules, words = SmmuRules(SmmuIdentity()), words_of(vector)
    assert not rules.bad_cd(words, stalls_disabled=False)
    assert rules.first(words, 0) is not None
    assert CD["EPD0"].get(words) == int(vector["id"] == QUIET)
    assert CD["EPD1"].get(words) == 1


@of("smmu_ste")
def test_the_kernels_stream_table_entries_are_valid(vector):
    """Each configuration that the driver writes is one that the unit accepts."""
    rules, words = SmmuRules(SmmuIdentity()), words_of(vector)
    assert not rules.bad_ste(words)
    assert (rules.second(words) is not None) == (STE["Config"].get(words) == 6)


@of(*(one["structure"] for one in ENCODED if one["structure"].startswith("smmu_cmd_")))
def test_the_command_queue_takes_what_the_kernel_builds(vector):
    """Each golden command is decoded by the unit as what the kernel meant."""
    command = decode_command(words_of(vector))
    assert isinstance(command, SmmuCommand)
    assert command.layout is layout_of(vector)


@of("smmu_event")
def test_the_unit_writes_the_event_of_the_golden_vector(vector):
    """A SubstreamID that is out of range: SSID is told, SSV is not."""
    values = told(vector)
    request = DmaRequest(values["SID"], 0x5000, Access.READ, values["SSID"])
    assert encode_event(request, Blocked(SmmuEvent.of(values["ID"]))) == words_of(vector)


@of("smmu_pri_entry")
def test_a_page_request_survives_the_way_through_the_pri_queue(vector):
    """The golden record is a request, and the request is the golden record."""
    assert encode_page_request(decode_page_request(words_of(vector))) == words_of(vector)
