"""VT-d layouts against words that kernel code produced (golden vectors), and against their own round trip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.vtd.invalidation import Descriptor, decode_descriptor
from pasidlab.hardware.layouts import vtd, vtd_queue

VECTORS = json.loads((Path(__file__).parents[2] / "data" / "golden_vectors.json").read_text())["vectors"]
LAYOUTS = {one.name: one for module in (vtd, vtd_queue) for one in vars(module).values() if isinstance(one, Layout)}

TYPES = {layout.name: code for code, layout, _ in vtd_queue.DESCRIPTORS}
SPELLED = {"addr": "ADDR", "pasid": "PASID", "cmd": "CMD"}


def number(value):
    return value if isinstance(value, int) else int(value, 0)


def words(vector):
    return tuple(number(word) for word in vector["expected"])


def vectors(*structures):
    chosen = [one for one in VECTORS if one["structure"] in structures]
    assert chosen
    return pytest.mark.parametrize("vector", chosen, ids=[one["id"] for one in chosen])


ENCODED = (
    *("vtd_rtaddr", "vtd_sm_context_entry", "vtd_pasid_dir_entry", "vtd_pasid_entry", "vtd_fl_pte", "vtd_sl_pte"),
    *("vtd_qi_context_cache", "vtd_qi_iotlb", "vtd_qi_wait", "vtd_qi_piotlb", "vtd_qi_pasid_cache"),
    *("vtd_qi_pasid_dev_tlb", "vtd_qi_page_group_resp", "vtd_vcmd_legacy"),
)


@vectors(*ENCODED)
def test_fields_decode_to_what_the_kernel_was_told(vector):
    """Every input that names a field is found in the words; fields that no input names are zero."""
    layout, given_ = LAYOUTS[vector["fields_ref"]], inputs(vector)
    own, rest = words(vector)[: layout.word_count], words(vector)[layout.word_count :]
    assert not any(rest)
    decoded = layout.decode(own)
    told = {name: value for name, value in given_.items() if name in decoded}
    assert told
    for name, value in told.items():
        assert decoded[name] == value, name
    if layout.name in TYPES:
        told["TYPE"] = TYPES[layout.name]
    assert layout.encode(**(decoded | told)) == own
    unexplained = {name for name, value in decoded.items() if value and name not in told}
    assert unexplained <= IMPLIED.get(layout.name, set()), unexplained


IMPLIED = {
    "vtd_qi_pasid_dev_tlb": {"PFSID_LO", "PFSID_HI"},
    "vtd_qi_page_group_resp": {"PRIV0", "PRIV1"},
    "vtd_qi_piotlb": {"AM", "ADDR", "IH"},
}
"""Fields that the vectors give in another form: split (PFSID), as a list (private data), as a page count."""


def inputs(vector):
    """The vector's inputs as field values."""
    told = {SPELLED.get(name, name): value for name, value in vector["inputs"].items()}
    if vector["structure"] == "vtd_vcmd_legacy":
        told["CMD"] = {"alloc": 1, "free": 2}[told["CMD"]]
    if "PFSID" in told:
        pfsid = number(told["PFSID"])
        told |= {"PFSID_LO": pfsid & 0xF, "PFSID_HI": pfsid >> 4}
    if told.get("size_order"):  # the range: ones below the bit that would double it
        reach = 1 << 12 + told["size_order"]
        told["ADDR"] = (number(told["ADDR"]) & -reach | reach // 2 - 1) & ~0xFFF
    return {name: number(value) for name, value in told.items() if is_number(value)}


def is_number(value):
    try:
        number(value)
    except (TypeError, ValueError):
        return False
    return True


@vectors("vtd_pasid_index_split")
def test_a_pasid_splits_into_directory_and_table_index(vector):
    """Bits 19:6 and 5:0."""
    pasid = number(vector["inputs"]["pasid"])
    assert (pasid >> 6, pasid & 63) == words(vector)


@vectors("vtd_vcrsp_rev3.3_decode")
def test_the_newer_response_decodes(vector):
    """IP, status and PASID in the layout of revision 3.3."""
    decoded = vtd.VCRSP_REV33.decode((number(vector["inputs"]["vcrsp"]),))
    assert tuple(decoded[name] for name in vector["expected_names"]) == words(vector)


@vectors("vtd_teardown_trace")
def test_the_queue_decodes_every_descriptor_of_a_real_teardown(vector):
    """What the kernel's teardown puts into the queue is accepted, and names the PASID or domain it tears down."""
    told = vector["inputs"]
    for step in vector["trace"]:
        if step["op"] != "qi":
            continue
        descriptor = decode_descriptor(tuple(number(word) for word in step["qw"]))
        assert isinstance(descriptor, Descriptor)
        assert descriptor.type == step["type"]
        fields = descriptor.fields()
        assert fields.get("PASID", told["PASID"]) == told["PASID"]
        assert fields.get("DID", told["DID"]) == told["DID"]
    entry = vtd.PASID_ENTRY.decode(words(vector))
    assert {name for name, value in entry.items() if value} == ({"FPD"} if told.get("fault_ignore") else set())


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@given(data=st.data())
def test_encode_and_decode_are_inverse(layout, data):
    """Any field values survive the way into words and back, and use no reserved bit."""
    raw = {field.name: data.draw(st.integers(0, (1 << field.width) - 1)) << field.shift for field in layout}
    encoded = layout.encode(**raw)
    assert layout.decode(encoded) == raw
    assert layout.reserved(encoded) == 0


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_say_where_they_are_written_down(layout):
    """Each layout has a source, each field a meaning."""
    assert layout.source
    assert all(field.meaning for field in layout)
