"""Laws of every layout: what goes in comes out, each bit has one owner, nothing that does not fit is taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.hardware.layouts.catalogue import FIELDS, LAYOUTS

OWN = {
    *("vtd_ver_reg", "vtd_gcmd_reg", "vtd_gsts_reg", "vtd_ccmd_reg", "vtd_event_control_reg", "vtd_ics_reg"),
    *("vtd_prs_reg", "dsa_gensts", "dsa_offsets", "dsa_ims_entry", "msix_entry"),
    *("amd_efr2", "amd_device_table_reg", "amd_buffer_reg", "amd_ring_reg", "amd_control_reg", "amd_status_reg"),
    *("amd_msi_capability_reg", "amd_cmd_inv_irt", "amd_cmd_prefetch"),
    *("smmu_idr3", "smmu_idr5", "smmu_cr0", "smmu_cr2", "smmu_gbpa", "smmu_irq_ctrl", "smmu_gerror"),
    *("smmu_strtab_base", "smmu_strtab_base_cfg", "smmu_queue_base", "smmu_event_fetch"),
    *("smmu_cmd_tlbi_nh_all", "smmu_cmd_tlbi_nh_vaa", "smmu_cmd_stall_term"),
}
"""Layouts that the facts describe in words or not at all."""
MORE = {
    "dsa_wqcfg": {"occupancy_inth", "occupancy_table_sel", "occupancy_int", "mode_support"},
    "dsa_hw_desc": {"int_table"},
    "amd_dte": {
        *("IOCTL", "CACHE", "SD", "EX", "SYSMGT", "IG"),
        *("INIT_PASS", "EINT_PASS", "NMI_PASS", "LINT0_PASS", "LINT1_PASS"),
    },
    "amd_efr": {"PPRAUTORSP", "MSICAPMMIO", "HASUP", "HDSUP"},
    "amd_cmd_completion_wait": {"F"},
    "smmu_cd": {"T1SZ", "TG1", "AFFD", "TBI1"},
    "smmu_event": {"TTRnW"},
    "smmu_cmd_cfgi_all": {"SID"},
}
"""Fields that are declared beyond those of the facts."""

every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def raw_values(layout, data):
    """A value for each field, random, of full width."""
    return {field.name: data.draw(st.integers(0, (1 << field.width) - 1)) << field.shift for field in layout}


def test_the_model_has_every_layout_of_the_facts_and_names_its_own():
    """A structure of the facts is declared here, or this test fails; so does one that nobody has named."""
    assert LAYOUTS.keys() - OWN == FIELDS.keys()
    assert LAYOUTS.keys() >= OWN


@pytest.mark.parametrize("name", sorted(LAYOUTS.keys() & FIELDS.keys()))
def test_a_layout_is_the_one_of_the_facts(name):
    """Size, and name, bits and shift of each field."""
    layout, facts = LAYOUTS[name], FIELDS[name]
    assert layout.size == facts["size_bytes"]
    more = MORE.get(name, set())
    ours = {(field.name, field.lsb, field.msb, field.shift) for field in layout if field.name not in more}
    assert ours == {(one["name"], one["lsb"], one["msb"], one.get("shift", 0)) for one in facts["fields"]}


@every_layout
@given(data=st.data())
def test_encode_and_decode_are_inverse(layout, data):
    """Any field values survive the way into words, bytes and back, and use no reserved bit."""
    values = raw_values(layout, data)
    words = layout.encode(**values)
    assert layout.decode(words) == values
    assert layout.reserved(words) == 0
    assert layout.from_bytes(layout.to_bytes(words)) == words
    assert {field.name: value for field, value in layout.explain(words)} == values


@every_layout
@given(data=st.data())
def test_decode_and_encode_are_inverse_but_for_reserved_bits(layout, data):
    """Any words are their fields and their reserved bits, and nothing else."""
    whole = data.draw(st.integers(0, (1 << 8 * layout.size) - 1))
    words = layout.split(whole)
    assert layout.join(words) == whole
    assert layout.join(layout.encode(**layout.decode(words))) | layout.reserved(words) == whole


@every_layout
@given(data=st.data())
def test_a_field_changes_alone(layout, data):
    """One field of random words takes a new value; every other bit stays, also where it spans several words."""
    words = layout.split(data.draw(st.integers(0, (1 << 8 * layout.size) - 1)))
    field = data.draw(st.sampled_from(layout.fields))
    value = data.draw(st.integers(0, (1 << field.width) - 1)) << field.shift
    changed = layout.change(words, **{field.name: value})
    assert field.get(changed) == value
    assert layout.join(changed) & ~field.mask == layout.join(words) & ~field.mask


@every_layout
def test_every_bit_has_one_owner(layout):
    """Each field is reached by exactly its own bits; the reserved mask is what is left."""
    whole = (1 << 8 * layout.size) - 1
    owned = 0
    for field in layout:
        top = ((1 << field.width) - 1) << field.shift
        assert layout.join(layout.encode(**{field.name: top})) == field.mask
        assert field.mask == ((1 << field.msb + 1) - 1) >> field.lsb << field.lsb
        assert owned & field.mask == 0
        owned |= field.mask
    assert layout.reserved_mask == whole & ~owned
    assert layout.reserved(layout.split(whole)) == layout.reserved_mask


@every_layout
def test_values_that_do_not_fit_are_refused(layout):
    """Too large, negative, not a multiple of what the shift leaves out, or for no field: a ``ValueError`` each."""
    for field in layout:
        wrong = [(1 << field.width) << field.shift, -1, *([1] if field.shift else [])]
        for value in wrong:
            with pytest.raises(ValueError, match=field.name):
                layout.encode(**{field.name: value})
    with pytest.raises(ValueError, match="has no field"):
        layout.encode(no_such_field=1)


@every_layout
def test_words_that_are_none_are_refused(layout):
    """Too many words, too few, one too wide, one negative; bytes of the wrong length."""
    zeros = [0] * layout.word_count
    for words in (zeros[1:], [*zeros, 0], [1 << layout.word_bits, *zeros[1:]], [-1, *zeros[1:]]):
        with pytest.raises(ValueError, match=layout.name):
            layout.join(words)
    with pytest.raises(ValueError, match=layout.name):
        layout.from_bytes(bytes(layout.size + 1))


@every_layout
def test_layouts_say_where_they_are_written_down(layout):
    """Each layout has a source, each field a meaning, and no name is used twice."""
    assert layout.source
    assert all(field.meaning for field in layout)
    assert len({field.name for field in layout}) == len(layout.fields)
