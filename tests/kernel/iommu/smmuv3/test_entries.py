"""The words that the driver writes are those of Linux's own functions."""

import json
from pathlib import Path

import pytest

from pasidlab.hardware.iommu.smmuv3.identity import SmmuIdentity
from pasidlab.hardware.layouts.smmu import CD, STE
from pasidlab.hardware.layouts.smmu_queue import CMD_CFGI_ALL
from pasidlab.hardware.pcie import PageGroupResponse
from pasidlab.kernel.iommu.domain import SecondLevel
from pasidlab.kernel.iommu.smmuv3 import entries
from pasidlab.kernel.iommu.smmuv3.capabilities import Capabilities
from pasidlab.kernel.iommu.smmuv3.entries import ContextTable, StreamSide
from pasidlab.kernel.iommu.smmuv3.queue import CommandQueue, encode, span

DATA = Path(__file__).parents[3] / "data" / "golden_vectors.json"
GOLDEN = {vector["id"]: vector for vector in json.loads(DATA.read_text())["vectors"]}


def expected(name):
    """The words of a vector."""
    return tuple(int(word, 0) for word in GOLDEN[name]["expected"])


def unit(**fields):
    """What the driver knows of a unit."""
    card = SmmuIdentity(**fields)
    return Capabilities.read(card.idr0(), card.idr1(), card.idr3(), card.idr5())


def test_a_stream_that_nobody_knows_aborts():
    """arm_smmu_write_strtab_ent without a configuration."""
    assert entries.abort() == expected("smmu_ste-01")


def test_the_entry_of_a_device_with_contexts():
    """arm_smmu_write_strtab_ent with stage 1; only S1DSS is another one, as later kernels write it."""
    side = StreamSide(ats=True, never_held=True)
    assert entries.stage_1(ContextTable(2, 0x1234567000, 20), side, without=2) == expected("smmu_ste-04")
    bypassing = entries.stage_1(ContextTable(2, 0x1234567000, 20), side)
    assert bypassing == STE.change(expected("smmu_ste-04"), S1DSS=1)


def test_the_entry_of_a_vms_device():
    """arm_smmu_write_strtab_ent with stage 2. For 40 bits Linux puts two tables side by side, we have one."""
    words = entries.second_stage(SecondLevel(0x2000080000, 3), 66, unit(oas=40))
    assert STE["S2T0SZ"].get(words) == 64 - 39
    assert STE.change(words, S2T0SZ=24) == expected("smmu_ste-06")


def test_the_context_descriptor_of_a_process():
    """arm_smmu_write_ctx_desc for SVA."""
    assert entries.process_context(0x123456000, 119, unit()) == expected("smmu_cd-01")


def test_a_quiet_descriptor_has_walks_off_and_says_nothing():
    """The kernel's bit for it (EPD0); beyond that no records, no table and no ASID."""
    live = CD.change(expected("smmu_cd-04"), EPD0=0)
    quiet = entries.quiet_context(live, forced=False)
    assert CD.change(quiet, ASID=0x1234, TTB0=0x123456000, R=1, S=1) == expected("smmu_cd-04")
    assert entries.is_live(live)
    assert not entries.is_live(quiet)


def test_a_unit_that_holds_everything_does_so_with_quiet_descriptors_too():
    """S=0 would be illegal there."""
    live = CD.change(expected("smmu_cd-04"), EPD0=0)
    assert CD["S"].get(entries.quiet_context(live, forced=True)) == 1


def command(name):
    """The command of a vector, as the driver makes it."""
    queue = CommandQueue
    return {
        "smmu_cmd_cfgi_cd_all-01": lambda: queue.contexts(0x6A01),
        "smmu_cmd_cfgi_all-01": lambda: encode(CMD_CFGI_ALL, range=31),
        "smmu_cmd_tlbi_s12_vmall-01": lambda: queue.machine(66),
        "smmu_cmd_atc_inv-04": lambda: queue.device_tlb(0x6A01, 5, span(0x7000, 0x4000)),
        "smmu_cmd_pri_resp-01": lambda: queue.page_response(PageGroupResponse(0x6A01, 4660, 85, 0)),
        "smmu_cmd_resume-01": lambda: queue.resume(0x6A01, 0xBEEF, retry=True),
    }[name]()


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("smmu_cmd_")])
def test_commands_are_the_kernels(name):
    """arm_smmu_cmdq_build_cmd."""
    assert command(name) == expected(name)


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ((0,) * 8, "not valid"),
        (entries.abort(), "abort"),
        (entries.bypass(), "bypass"),
        (STE.encode(V=1, Config=2), "reserved"),
    ],
)
def test_an_entry_says_what_it_does(words, meaning):
    """In words, for events."""
    assert entries.meaning_of(words) == meaning
