"""Layouts of the processor, PCIe and the accelerator, against words produced by kernel code and documented rules."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pasidlab.hardware.accelerator import Command, command_word, queue_bitmap, queues_of
from pasidlab.hardware.accelerator.register_map import portal_offset
from pasidlab.hardware.bits import Layout
from pasidlab.hardware.cpu import split_pasid
from pasidlab.hardware.layouts import cpu, dsa, pcie

LAYOUTS = {
    layout.name: layout for module in (cpu, dsa, pcie) for layout in vars(module).values() if isinstance(layout, Layout)
}
RENAMED = {
    "dsa_hw_desc": {"compl": "completion_addr", "desc_list": "src", "desc_count": "size"},
    "ia32_pasid_msr": {"valid": "V", "pasid": "PASID"},
    "vmx_pasid_table_entry": {"valid": "V", "host_pasid": "HOST_PASID"},
}
CONSTANT = {"pcie_pasid_tlp_prefix": {"TYPE": 0x91}}


def number(value):
    return int(value, 0) if isinstance(value, str) else value


def whole(vector):
    """The expected words as one integer, whatever their width."""
    return sum(number(word) << vector["word_bits"] * index for index, word in enumerate(vector["expected"]))


def fields(vector):
    """The inputs as field values of the layout."""
    name = vector["structure"]
    renamed = RENAMED.get(name, {})
    values = {
        renamed.get(key, key): number(value) for key, value in vector["inputs"].items() if not key.endswith("_name")
    }
    if "wq" in values:
        values["operand"] = queue_bitmap(values.pop("wq"))
    return {**CONSTANT.get(name, {}), **values}


VECTORS = json.loads((Path(__file__).parents[2] / "data" / "golden_vectors.json").read_text())["vectors"]


def of(*structures):
    rows = [vector for vector in VECTORS if vector["structure"] in structures]
    assert rows, f"the golden vectors must have rows for {structures}"
    return pytest.mark.parametrize("vector", rows, ids=[vector["id"] for vector in rows])


@of(*(LAYOUTS.keys() & {vector["structure"] for vector in VECTORS}))
def test_a_layout_encodes_and_decodes_what_the_kernel_does(vector):
    """Field values give the golden words, the golden words give the field values, and no bit is left over."""
    layout = LAYOUTS[vector["structure"]]
    words = layout.split(whole(vector))
    assert layout.encode(**fields(vector)) == words
    assert layout.decode(words).items() >= fields(vector).items()
    assert layout.reserved(words) == 0


@of("vmx_pasid_split")
def test_a_pasid_splits_into_directory_and_table_indices(vector):
    """Bit 19, bits 18:10 and bits 9:0 are the three indices."""
    assert split_pasid(vector["inputs"]["pasid"]) == tuple(map(number, vector["expected"]))


@of("dsa_portal_offset")
def test_portals_lie_four_pages_apart(vector):
    """A queue's portal page is where the driver computes it."""
    inputs = vector["inputs"]
    assert portal_offset(inputs["wq"], limited=bool(inputs["portal"])) == whole(vector)


@of("dsa_cmd")
def test_a_command_word_is_built_like_the_drivers(vector):
    """The helper for drivers gives the same word as the layout."""
    values = fields(vector)
    assert command_word(Command(values["cmd"]), values["operand"]) | values["int_req"] << 31 == whole(vector)


@of("pcie_pasid_cap_decode")
def test_the_pasid_capability_register_decodes(vector):
    """Bits of the 16-bit capability register appear in the layout's second dword."""
    decoded = pcie.PASID_CAP.decode((number(vector["inputs"]["cap"]) << 32,))
    assert [decoded["EXEC"], decoded["PRIV"], decoded["WIDTH"]] == list(map(number, vector["expected"]))


@of("pcie_ats_ctrl")
def test_the_ats_control_register_encodes(vector):
    """The 16-bit control register lies in the upper half of the layout's second dword."""
    inputs = vector["inputs"]
    assert pcie.ATS_CAP.encode(EN=inputs["enable"], STU=inputs["STU"])[0] >> 48 == whole(vector)


@given(st.sets(st.integers(0, 15), min_size=1), st.integers(0, 15))
def test_a_queue_bitmap_names_the_queues_that_were_put_in(bits, group):
    """Combining the bitmaps of queues of one group of sixteen and taking them apart gives the same queues."""
    wqs = [16 * group + bit for bit in sorted(bits)]
    operand = 0
    for wq in wqs:
        operand |= queue_bitmap(wq)
    assert queues_of(operand) == wqs


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@given(data=st.data())
def test_every_field_keeps_its_value_beside_random_others(layout, data):
    """Changing one field of random words changes that field alone, also where it spans several words."""
    words = layout.split(data.draw(st.integers(0, (1 << 8 * layout.size) - 1)))
    field = data.draw(st.sampled_from(layout.fields))
    value = data.draw(st.integers(0, (1 << field.width) - 1)) << field.shift
    changed = layout.change(words, **{field.name: value})
    assert field.get(changed) == value
    assert layout.join(changed) & ~field.mask == layout.join(words) & ~field.mask
    assert layout.from_bytes(layout.to_bytes(changed)) == changed
