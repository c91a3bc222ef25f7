"""QEMU 10.0.2's verdicts on random VT-d tables: each one is ours, or a row of the table of departures explains it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pasidlab.hardware.iommu.vtd.conformance import Probe, Verdict
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.layouts.vtd import CONTEXT_ENTRY, PASID_ENTRY
from pasidlab.hardware.layouts.vtd_queue import FRCD
from tests.conformance.qemu_departures import DEPARTURES, Departure, World, qemu_code, stop

DATA = Path(__file__).parent.parent / "data" / "qemu_walks"


def worlds(name):
    """Every recorded request: the world it was made in, and what QEMU said."""
    data = json.loads((DATA / f"{name}.json").read_text())
    identity = VtdIdentity.from_registers(int(data["cap"], 0), int(data["ecap"], 0))
    identity = replace(identity, rps=True)  # QEMU obeys RID_PASID although its ECAP does not report it
    for case in data["cases"]:
        image = {int(address, 0): int(word, 0) for address, word in case["image"].items()}
        for said in case["probes"]:
            probe = Probe(bdf=said["bdf"], iova=said["iova"], write=said["write"])
            yield World(case["rtaddr"], image, identity, int(data["ram"], 0), probe), said


def agrees(verdict: Verdict, said, second_stage: bool) -> bool:
    """Whether our verdict is QEMU's: the same address; or the same fault, both recorded or both not."""
    if verdict.code is None:
        return "gpa" in said and int(said["gpa"], 0) == verdict.address
    if verdict.record is None and not recorded_anyway(verdict):
        return "blocked" in said
    return "fault" in said and int(said["fault"], 0) == qemu_code(verdict.code, said["write"], second_stage)


def recorded_anyway(verdict: Verdict) -> bool:
    """QEMU looks at the FPD of a PASID entry only when the entry is present."""
    entry = stop(verdict, "PASID entry")
    if entry is None or PASID_ENTRY["P"].get(entry.words):
        return False
    return not any(one.fields().get("FPD") for one in verdict.walk.stops if one is not entry)


def explain(world: World, said, second_stage: bool) -> list[Departure]:
    """The rows that lead from our verdict to QEMU's; fails when there are none."""
    used: list[Departure] = []
    while not agrees(verdict := world.verdict(), said, second_stage):
        seen = [(row, row.see(world, verdict)) for row in DEPARTURES if row not in used]
        for row, answer in seen:
            if isinstance(answer, int) and said.get("fault") == hex(qemu_code(answer, said["write"], second_stage)):
                return [*used, row]
        steps = [(row, answer) for row, answer in seen if isinstance(answer, World)]
        assert steps, f"{verdict.walk}\nQEMU: {said}\nexplained so far: {[row.specification for row in used]}"
        row, world = steps[0]
        used.append(row)
    return used


@pytest.mark.parametrize(("name", "plain"), [("sl", 900), ("fl", 400)])
def test_every_verdict_is_ours_or_a_known_departure(name, plain):
    """Addresses and fault codes agree on every request, up to the rows of the table."""
    rows: Counter[tuple[str, ...]] = Counter()
    for world, said in worlds(name):
        rows[tuple(row.specification for row in explain(world, said, name == "sl"))] += 1
    assert rows[()] > plain


@pytest.mark.parametrize("name", ["sl", "fl"])
def test_fault_records_agree_to_the_bit(name):
    """Where the codes need no explanation, so do page, requester, type; PASID fields follow QEMU's one departure."""
    compared = 0
    for world, said in worlds(name):
        verdict = world.verdict()
        if verdict.record is None or not agrees(verdict, said, name == "sl"):
            continue
        ours = FRCD.decode(verdict.record)
        theirs = FRCD.decode(tuple(int(word, 0) for word in said["record"]))
        context = stop(verdict, "context entry")
        rid_pasid = CONTEXT_ENTRY["RID_PASID"].get(context.words) if context is not None else 0
        assert (theirs["PP"], theirs["PV"]) in {(0, 0), (1, rid_pasid & 0xFFFF)}
        assert ours["FR"] in range(0x30, 0x92)
        for field in ("FI", "SID", "T1", "T2", "AT", "PRIV", "EXE", "F"):
            assert ours[field] == theirs[field], (field, str(verdict.walk), said)
        compared += 1
    assert compared > 300


@pytest.mark.parametrize("row", [row for row in DEPARTURES if row.met], ids=lambda row: row.specification.split(":")[0])
def test_no_departure_is_idle(row):
    """A row that explains nothing in the recorded verdicts would only loosen the test."""
    assert any(row in explain(world, said, name == "sl") for name in ("sl", "fl") for world, said in worlds(name))
