"""What real kernels printed of their tables, queues and page requests, read through the layouts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pasidlab.hardware.iommu.amdvi.event_lines import describe_dte, read_events
from pasidlab.hardware.iommu.smmuv3 import event_lines as smmu
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.invalidation import Descriptor, decode_descriptor
from pasidlab.hardware.iommu.vtd.rules import VtdRules
from pasidlab.hardware.layouts.vtd import CONTEXT_ENTRY, PASID_DIR_ENTRY, PASID_ENTRY, ROOT_ENTRY, SL_ENTRY
from pasidlab.hardware.layouts.vtd_queue import PAGE_REQUEST
from pasidlab.hardware.pcie import format_rid, parse_rid

DATA = Path(__file__).parent.parent / "data" / "realdata"
EXPECT = {row["file"]: row["expect"] for row in json.loads((DATA / "index.json").read_text())}
RULES = VtdRules(VtdIdentity(haw=52))
NUMBER = re.compile(r"0x[0-9a-f]{16}")


def dump(name):
    """The rows of a debugfs table: device, root and context words, PASID, PASID-entry words, lowest word first."""
    lowest_first = EXPECT[name]["column_order"].startswith("val[0]")
    for line in (DATA / name).read_text().splitlines():
        words = [int(one, 16) for one in NUMBER.findall(line)]
        if len(words) == 7:
            columns = line.split()
            entry = words[4:] if lowest_first else words[:3:-1]
            yield columns[0], words[1::-1], words[3:1:-1], int(columns[3]), entry


@pytest.mark.parametrize("name", ["vtd_debugfs/01.txt", "vtd_debugfs/05.txt"])
def test_real_table_entries_decode_to_what_they_are(name):
    """Root, context and PASID entries of running machines: fields as known, and nothing that this unit would refuse."""
    rows = list(dump(name))
    assert len(rows) == len(EXPECT[name]["rows"])
    for (device, root, context, pasid, entry), known in zip(rows, EXPECT[name]["rows"], strict=True):
        assert (device, pasid) == (known["device"], known["pasid"])
        upper = parse_rid(device) >> 7 & 1
        assert ROOT_ENTRY["UP" if upper else "LP"].get(root) == 1
        assert root[upper] & RULES.root[upper] == 0
        check_context(context, known["context"])
        check_entry([*entry, 0, 0, 0, 0, 0], known["pasid_entry"])


def check_context(words, known):
    """A context entry, whose upper half the dump leaves out."""
    at = CONTEXT_ENTRY.decode((*words, 0, 0))
    said = {"present": "P", "fpd": "FPD", "dte": "DTE", "pasid_enable": "PASIDE", "pre": "PRE"}
    assert {name: bool(at[field]) for name, field in said.items()} == {name: known[name] for name in said}
    assert (at["PDTS"], 1 << at["PDTS"] + 7) == (known["pdts"], known["dir_entries"])
    assert (hex(at["PASIDDIRPTR"]), at["RID_PASID"]) == (known["pasid_dir"], known["rid_pasid"])
    assert [word & mask for word, mask in zip((*words, 0, 0), RULES.context, strict=True)] == [0, 0, 0, 0]


def check_entry(words, known):
    """A PASID entry, of which the dump shows three words."""
    at = PASID_ENTRY.decode(words)
    assert (bool(at["P"]), bool(at["FPD"]), at["AW"], at["PGTT"], at["DID"], bool(at["PWSNP"])) == (
        *(known["present"], known["fpd"], known["aw"], known["pgtt"], known["did"], known["pwsnp"]),
    )
    pointers = {"second_stage_table": "SLPTPTR", "first_stage_table": "FLPTPTR"}
    for name, field in pointers.items():
        assert name not in known or hex(at[field]) == known[name]
    assert "sre" not in known or bool(at["SRE"]) == known["sre"]
    assert "levels" not in known or RULES.depths[at["AW"]] == known["levels"]
    assert not any(word & mask for word, mask in zip(words, RULES.entry, strict=True))


def test_an_absent_entry_is_absent_although_an_old_kernel_walked_on():
    """The directory entry is present and names a table; all PASID-entry words are zero."""
    words = [int(one, 16) for one in NUMBER.findall((DATA / "vtd_debugfs/07.txt").read_text())]
    known = EXPECT["vtd_debugfs/07.txt"]
    directory = PASID_DIR_ENTRY.decode(words[:1])
    assert (bool(directory["P"]), hex(directory["SMPTBLPTR"])) == (True, known["pasid_dir_entry"]["table"])
    assert bool(PASID_ENTRY["P"].get(words[1:])) is known["pasid_entry"]["present"]
    assert not directory["SMPTBLPTR"] & RULES.directory


def test_a_real_second_level_leads_where_the_kernel_mapped():
    """Each row of the dump: four levels of entries, the last one the page, readable and writable."""
    known, found = EXPECT["vtd_debugfs/08.txt"], {}
    for line in (DATA / "vtd_debugfs/08.txt").read_text().splitlines()[2:]:
        iova, _, *levels = [int(one, 16) for one in line.replace("|", " ").split()]
        decoded = [SL_ENTRY.decode((word,)) for word in levels]
        assert [(at["R"], at["W"], at["PS"]) for at in decoded] == [(1, 1, 0)] * 4
        found[hex(iova << 12)] = hex(decoded[-1]["ADDR"])
    assert found == known["map"]


def descriptors(text):
    """The descriptors in a log or a dump of a queue: every line with two or more words of 64 bits."""
    for line in text.splitlines():
        submitted = re.search(r"qi_submit: \S+ \S+ (.*)", line)
        words = submitted.group(1).split() if submitted else re.findall(r"\b[0-9a-f]{16}\b", line)
        if len(words) >= 2:
            yield tuple(int(word, 16) for word in words[:2])


def test_real_submitted_descriptors_are_what_the_kernel_called_them():
    """An IOTLB and a device-TLB invalidation from a trace: domain, draining, device, everything."""
    iotlb, device = (decode_descriptor(words) for words in descriptors((DATA / "vtd_trace/03.txt").read_text()))
    assert isinstance(iotlb, Descriptor)
    assert isinstance(device, Descriptor)
    known_iotlb, known_device = EXPECT["vtd_trace/03.txt"]
    at = iotlb.fields()
    assert iotlb.name == "IOTLB"
    assert (at["G"], at["DID"]) == (2, known_iotlb["did"])
    assert (bool(at["DR"]), bool(at["DW"])) == (known_iotlb["drain_read"], known_iotlb["drain_write"])
    at = device.fields()
    assert device.name == "device TLB"
    assert (format_rid(at["SID"]), at["MIP"], bool(at["S"])) == (known_device["device"], known_device["qdep"], True)
    assert at["ADDR"] == 0x7FFF_FFFF_FFFF_F000


def test_a_real_queue_is_decoded_whole():
    """Interrupt-entry, wait and context descriptors of two queues, narrow and wide."""
    known = EXPECT["vtd_trace/07.txt"]
    dump_text = (DATA / "vtd_trace/07.txt").read_text()
    wanted = [*known["dmar0"], *known["dmar1"]]
    found = [decode_descriptor(words) for words in descriptors(dump_text)]
    assert len(found) == len(wanted)
    names = {"interrupt-entry-cache": "interrupt entry cache", "wait": "wait", "context-cache": "context cache"}
    for descriptor, one in zip(found, wanted, strict=True):
        assert isinstance(descriptor, Descriptor)
        assert descriptor.name == names[one["type"]]
        at = descriptor.fields()
        for name, field in (("status_data", "STDATA"), ("index", "IIDX"), ("mask", "IM")):
            assert name not in one or at[field] == one[name]
        assert "status_address" not in one or hex(at["STADDR"]) == one["status_address"]
        assert "granularity" not in one or at["G"] == {"global": int(one["type"] == "context-cache")}.get(
            one["granularity"], 1
        )


def test_real_page_requests_fit_their_record():
    """Device, PASID, page, rights, group and last mark of a trace survive the way through the queue's record."""
    for one in EXPECT["vtd_trace/01.txt"]:
        values = {
            "type": 1,
            "PP": 1,
            "RID": parse_rid(one["device"]),
            "PASID": one["pasid"],
            "EXE": int(one["exec"]),
            "PM": int(one["priv"]),
            "R": int(one["read"]),
            "W": int(one["write"]),
            "LPIG": int(one["last_in_group"]),
            "PRGI": one["prg_index"],
            "ADDR": int(one["address"], 0),
        }
        assert PAGE_REQUEST.decode(PAGE_REQUEST.encode(**values)).items() >= values.items()
        page = PAGE_REQUEST["ADDR"].get(PAGE_REQUEST.encode(**values)) >> 12
        assert f"addr={page:#x}" in (DATA / "vtd_trace/01.txt").read_text()


@pytest.mark.parametrize("name", sorted(name for name in EXPECT if name.startswith("amd_event/")))
def test_real_events_of_amd_are_read_as_what_they_are(name):
    """Each line of each kernel generation: event, device, number, address, flags, and the dumped table entry."""
    known = EXPECT[name] if isinstance(EXPECT[name], list) else [EXPECT[name]]
    found = read_events((DATA / name).read_text())
    assert len(found) == len(known)
    for event, one in zip(found, known, strict=True):
        told = {key: spelled(getattr(event, key)) for key in one if key not in ("event", "dte", "flags")}
        assert told == {key: spelled(one[key]) for key in told}
        assert (event.name, hex(event.flags)) == (one["event"], one["flags"])
        dte = {key: spelled(value) for key, value in describe_dte(event.dte).items()} if event.dte else None
        assert dte == ({key: spelled(value) for key, value in one["dte"].items()} if "dte" in one else None)


def spelled(value):
    """A number written in hexadecimal as a number; everything else as it is."""
    return int(value, 16) if isinstance(value, str) and value.startswith("0x") else value


@pytest.mark.parametrize("name", sorted(name for name in EXPECT if name.startswith("smmu_event/")))
def test_real_events_of_an_smmu_are_read_as_what_they_are(name):
    """Linux before and after 6.14, Xen: event, stream, substream, stall, access, stage, class, addresses."""
    known = EXPECT[name] if isinstance(EXPECT[name], list) else [EXPECT[name]]
    found = smmu.read_events((DATA / name).read_text())
    assert len(found) == len(known)
    for event, one in zip(found, known, strict=True):
        told = {key: getattr(event, "klass" if key == "class" else key) for key in one}
        assert told == {key: spelled(value) for key, value in one.items()}
