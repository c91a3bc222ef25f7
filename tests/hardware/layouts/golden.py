"""Golden vectors, read: words that kernel code or documented rules produced, and the field values that went in."""

from __future__ import annotations

import pytest

from pasidlab.hardware.accelerator import queue_bitmap
from pasidlab.hardware.bits import Layout
from pasidlab.hardware.iommu.amdvi.invalidation import ALL_PAGES, command_address
from pasidlab.hardware.layouts.amd import gcr3_fields
from pasidlab.hardware.layouts.amd_queue import COMMANDS as AMD_COMMANDS
from pasidlab.hardware.layouts.smmu_queue import COMMANDS as SMMU_COMMANDS
from pasidlab.hardware.layouts.vtd_queue import DESCRIPTORS
from tests.hardware.layouts.catalogue import LAYOUTS, VECTORS

SPELLED = {
    "vtd_vcmd_legacy": {"cmd": "CMD"},
    "vtd_vcmd_rev33": {"cmd": "CMD"},
    "dsa_hw_desc": {"compl": "completion_addr", "desc_list": "src", "desc_count": "size"},
    "ia32_pasid_msr": {"valid": "V"},
    "vmx_pasid_table_entry": {"valid": "V"},
}
"""Inputs that are called otherwise than the field; a name that differs in upper and lower case only needs no row."""
COMMANDS = {"alloc": 1, "free": 2}
CONSTANT = {
    "pcie_pasid_tlp_prefix": {"TYPE": 0x91},
    **{layout.name: {"TYPE": code} for code, layout, _ in DESCRIPTORS},
    **{layout.name: {"OPCODE": code} for code, layout, _ in AMD_COMMANDS},
    **{layout.name: {"OP": code} for code, layout in SMMU_COMMANDS},
}
"""Fields that every structure of the kind has, and that no input names."""


def number(value) -> int:
    """A number, or text like ``0x10``."""
    return value if isinstance(value, int) else int(value, 0)


def whole(vector) -> int:
    """The expected words as one integer, whatever their width."""
    return sum(number(word) << vector["word_bits"] * index for index, word in enumerate(vector["expected"]))


def layout_of(vector) -> Layout:
    """The layout that the vector is about."""
    return LAYOUTS[vector["fields_ref"]]


def words_of(vector) -> tuple[int, ...]:
    """The expected words of the structure; what lies behind it in a wider queue entry must be zero."""
    layout = layout_of(vector)
    value = whole(vector)
    assert value >> 8 * layout.size == 0
    return layout.split(value)


def told(vector) -> dict[str, int]:
    """Field values that the vector's inputs name."""
    layout = layout_of(vector)
    names = {field.name.lower(): field.name for field in layout} | SPELLED.get(layout.name, {})
    values = dict(CONSTANT.get(layout.name, {}))
    for name, value in inputs(vector).items():
        if name.lower() in names or name in names:
            values[names.get(name, names.get(name.lower(), name))] = number(COMMANDS.get(value, value))
    return values


def inputs(vector) -> dict:
    """The inputs, with what they say in another form put into field values."""
    given = dict(vector["inputs"])
    if "PFSID" in given:
        pfsid = number(given.pop("PFSID"))
        given |= {"PFSID_LO": pfsid & 0xF, "PFSID_HI": pfsid >> 4}
    if given.get("size_order"):  # the range: ones below the bit that would double it
        reach = 1 << 12 + given.pop("size_order")
        given["ADDR"] = (number(given["ADDR"]) & -reach | reach // 2 - 1) & ~0xFFF
    if vector["structure"].startswith("amd_"):
        given = amd_inputs(vector["structure"], given)
    if vector["structure"].startswith(("smmu_", "arm_")):
        given = arm_inputs(given)
    if "priv" in given and isinstance(given["priv"], list):
        given |= {f"PRIV{index}": word for index, word in enumerate(given.pop("priv"))}
    if "wq" in given and vector["structure"] == "dsa_cmd":
        given["operand"] = queue_bitmap(given.pop("wq"))
    return given


def amd_inputs(structure, given):
    """The same for AMD: addresses with a range, roots and PASIDs in parts."""
    if "GCR3" in given:
        given |= gcr3_fields(number(given.pop("GCR3")))
    if given.get("addr") == "all":
        given["addr"] = ALL_PAGES
    elif "bytes" in given:
        given["addr"], given["S"] = command_address(number(given["addr"]), number(given.pop("bytes")))
    if structure == "amd_cmd_inv_iotlb_pages":
        pasid = given.pop("PASID", 0)
        given |= {"queueid": given["devid"], "PASID_HI": pasid >> 8, "PASID_LO": pasid & 0xFF}
    return given


def arm_inputs(given):
    """The same for Arm: what the kernel adds by itself, kinds of entries, the smallest aligned range around bytes."""
    if given.get("Config_name") == "abort":
        given["SHCFG"] = 1
    if "type" in given:
        given["TYPE"] = given.pop("valid") | {"block": 0, "table": 2, "page": 2}[given.pop("type")]
    if "bytes" in given:
        first, size = number(given.pop("iova")) >> 12, number(given.pop("bytes"))
        order = (first ^ first + (size >> 12) - 1).bit_length()
        given |= {"SIZE": order, "ADDR": first >> order << order + 12}
    return given


def of(*structures):
    """Parametrize over the vectors of these structures; there must be some."""
    rows = [vector for vector in VECTORS if vector["structure"] in structures]
    assert rows, f"the golden vectors must have rows for {structures}"
    return pytest.mark.parametrize("vector", rows, ids=[vector["id"] for vector in rows])
