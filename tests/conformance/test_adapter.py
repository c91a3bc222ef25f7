"""The door for recorded tables: what it takes, what it refuses before doing anything, and that it obeys every rule."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from pasidlab.hardware.iommu.vtd.conformance import Case, Probe, load, read_file, replay, replay_file
from pasidlab.hardware.iommu.vtd.identity import Revision, VtdIdentity
from pasidlab.hardware.layouts.vtd import (
    CONTEXT_ENTRY,
    FL_ENTRY,
    PASID_DIR_ENTRY,
    PASID_ENTRY,
    ROOT_ENTRY,
    SL_ENTRY,
)
from pasidlab.hardware.layouts.vtd_queue import FRCD

DATA = Path(__file__).parent.parent / "data" / "qemu_walks"
RAM = 1 << 20
ROOT, CONTEXT, DIRECTORY, TABLE, FIRST, SECOND = 0x1000, 0x2000, 0x3000, 0x4000, 0x10000, 0x20000
CARD = VtdIdentity(fl5lp=True, sagaw=0b01110, mgaw=57, haw=52, ers=True)
WIDE = 0x00AB_7F12_3456_7890


def image(address=WIDE, depth=5, leaf=1, page=0x8000_0000, pgtt=1, pasid=5, flags=0, entry=None, **context):
    """Tables for device 00:02.0: one page of one PASID, as a recorded image."""
    words: dict[int, int] = {}

    def put(at, layout, **values):
        for index, word in enumerate(layout.encode(**values)):
            words[at + 8 * index] = word

    usual = {"P": 1, "PASIDE": 1, "PDTS": 7, "PASIDDIRPTR": DIRECTORY, "RID_PASID": pasid}
    put(ROOT, ROOT_ENTRY, LP=1, LCTP=CONTEXT)
    put(CONTEXT + 0x10 * 32, CONTEXT_ENTRY, **(usual | context))
    put(DIRECTORY + (pasid >> 6) * 8, PASID_DIR_ENTRY, P=1, SMPTBLPTR=TABLE)
    told = {"P": 1, "PGTT": pgtt, "AW": depth - 2 if pgtt == 2 else 2, "FLPM": int(depth == 5 and pgtt == 1)}
    told |= {"FLPTPTR": FIRST, "SLPTPTR": SECOND, "PWSNP": 1} | (entry or {})
    put(TABLE + (pasid & 63) * 64, PASID_ENTRY, **told)
    base, layout = (FIRST, FL_ENTRY) if pgtt == 1 else (SECOND, SL_ENTRY)
    rights = {"P": 1, "RW": 1, "US": 1} if pgtt == 1 else {"R": 1, "W": 1}
    for level in range(depth, leaf - 1, -1):
        table = base + (depth - level) * 0x1000
        to = page if level == leaf else table + 0x1000
        put(table + (address >> 9 * level & 0xFF8), layout, **rights, PS=int(level == leaf > 1), ADDR=to)
        words[table + (address >> 9 * level & 0xFF8)] |= flags if level == leaf else 0
    return {hex(at): hex(word) for at, word in words.items()}


def ask(case_image, identity=CARD, **probe):
    """One verdict: the address, or minus the code."""
    request = {"bdf": "0x0010", "iova": hex(WIDE)} | probe
    case = Case(rtaddr=ROOT | 0x400, image=case_image, probes=[cast("Probe", request)])
    (verdict,) = replay(case, identity, RAM)
    return verdict.address if verdict.code is None else -verdict.code


# --- rules, not samples -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pgtt", [1, 2])
@pytest.mark.parametrize(("leaf", "page"), [(1, 0x8000_0000), (2, 0x8000_0000), (3, 0x8000_0000)])
def test_five_levels_and_every_page_size_are_walked(pgtt, leaf, page):
    """57-bit addresses through either level, in pages of 4 KiB, 2 MiB and 1 GiB."""
    inside = WIDE & (1 << 12 + 9 * (leaf - 1)) - 1
    assert ask(image(depth=5, leaf=leaf, page=page, pgtt=pgtt)) == page | inside


@pytest.mark.parametrize(("depth", "bits"), [(3, 39), (4, 48), (5, 57)])
def test_the_second_level_has_three_depths(depth, bits):
    """Each translates its own width, and says 0x84 beyond it."""
    address = WIDE & (1 << bits) - 1
    tables = image(address, depth=depth, pgtt=2)
    assert ask(tables, iova=address) == 0x8000_0890
    assert ask(tables, iova=1 << bits) == -0x84


@pytest.mark.parametrize(
    ("values", "probe", "answer"),
    [
        ({}, {"pasid": 5}, 0x8000_0890),
        ({}, {"pasid": "0x6"}, -0x59),
        ({}, {"pasid": None}, 0x8000_0890),
        ({"PASIDE": 0}, {"pasid": 5}, -0x45),
        ({"PDTS": 0}, {"pasid": 0x2000}, -0x46),
        ({}, {"pasid": 5, "privileged": True}, -0x5D),
        ({"entry": {"SRE": 1}}, {"pasid": 5, "privileged": True}, 0x8000_0890),
        ({}, {"access": "execute", "pasid": 5}, -0x5C),
        ({"entry": {"ERE": 1}}, {"access": "execute", "pasid": 5}, 0x8000_0890),
        ({"entry": {"ERE": 1, "NXE": 1}, "flags": 1 << 63}, {"access": "execute", "pasid": 5}, -0x82),
        ({}, {"access": "atomic"}, 0x8000_0890),
        ({"entry": {"PWSNP": 0}}, {}, -0x90),
    ],
)
def test_probes_may_carry_all_that_a_request_can(values, probe, answer):
    """PASIDs, privilege, execution and atomics meet the rules of the tables."""
    assert ask(image(**values), **probe) == answer


def test_the_identity_decides():
    """The same case by other units: no five levels, no large pages, another revision."""
    assert ask(image(), replace(CARD, fl5lp=False)) == -0x5B
    assert ask(image(leaf=3), replace(CARD, fl1gp=False)) == -0x72
    assert ask(image(leaf=2, pgtt=2), replace(CARD, sllps=0)) == -0x7A
    assert ask(image(entry={"CD": 1}), replace(CARD, revision=Revision.V4_1)) == -0x5A


# --- form -------------------------------------------------------------------------------------------------------------


def test_numbers_may_be_written_as_numbers_or_text():
    """Any mixture of integers and hexadecimal or decimal text gives the same verdicts."""
    text = image(depth=4, address=WIDE & (1 << 47) - 1)
    numbers = {str(int(at, 0)): int(word, 0) for at, word in text.items()}
    iova = WIDE & (1 << 47) - 1
    verdicts = [
        replay({"rtaddr": rtaddr, "image": tables, "probes": [{"bdf": bdf, "iova": at, "write": True}]}, CARD, RAM)
        for rtaddr, tables, bdf, at in (
            ("0x1400", text, "0x0010", hex(iova)),
            (0x1400, numbers, 16, iova),
            ("5120", text, "00:02.0", str(iova)),
        )
    ]
    assert verdicts[0] == verdicts[1] == verdicts[2]
    assert verdicts[0][0].address == 0x8000_0890


def test_what_one_request_marks_stays_for_the_next():
    """Accessed and dirty bits: a walk that cannot set them passes after one that could."""
    tables = image(depth=4, address=WIDE & (1 << 47) - 1)
    iova = WIDE & (1 << 47) - 1
    unit = load({"rtaddr": ROOT | 0x400, "image": tables, "probes": []}, CARD, RAM)
    at = FIRST + 3 * 0x1000 + (iova >> 9 & 0xFF8)
    before = unit.memory.load(at)
    case = Case(rtaddr=ROOT | 0x400, image=tables, probes=[{"bdf": 0x10, "iova": iova, "write": True}] * 2)
    first, second = replay(case, CARD, RAM)
    leaves = [verdict.walk.stops[-1].words[0] for verdict in (first, second)]
    assert leaves == [before, before | FL_ENTRY.encode(A=1, D=1)[0]]


@pytest.mark.parametrize("name", ["sl", "fl"])
def test_caches_make_no_difference_to_a_recording(name):
    """A unit that keeps what it read answers every request of the recorded cases alike, in the same order."""
    recording = read_file(DATA / f"{name}.json")
    identity = replace(recording.identity, rps=True)
    for scene in recording.scenes[::15]:
        unit = scene.load(identity, recording.ram)
        keeping = type(unit)(unit.timeline, "keeping", unit.altitude, unit.memory, replace(identity, caches=True))
        keeping.root_pointer = unit.root_pointer
        keeping.mmio_write(0x18, 1 << 31, 4)
        for request, verdict in zip(scene.requests, scene.replay(identity, recording.ram), strict=True):
            answer = keeping.translate(request)
            assert (answer if isinstance(answer, int) else -answer.code) == (
                verdict.address if verdict.code is None else -verdict.code
            )


def test_a_file_is_replayed_with_its_own_unit(tmp_path):
    """CAP, ECAP and RAM of the file; haw, ver and rps can be told beside them; foreign names are left alone."""
    said = {"bdf": "0x0010", "iova": hex(WIDE), "write": False, "gpa": "0x80000890", "anything": [1]}
    case = {"rtaddr": hex(ROOT | 0x400), "image": image(), "probes": [said], "seed": 7}
    whole = {"emulator": "none", "cap": hex(CARD.cap()), "ecap": CARD.ecap(), "ram": hex(RAM), "cases": [case] * 2}
    path = tmp_path / "cases.json"
    path.write_text(json.dumps(whole))
    assert [[hex(one.address or 0) for one in verdicts] for verdicts in replay_file(path)] == [[said["gpa"]]] * 2
    assert [one[0].code for one in replay_file(str(path), rps=False)] == [0x59, 0x59]
    path.write_text(json.dumps(whole | {"ecap": CARD.ecap() & ~(1 << 49)}))
    assert [one[0].code for one in replay_file(path)] == [0x59, 0x59]
    path.write_text(json.dumps(whole | {"ecap": CARD.ecap() & ~(1 << 49), "emulator": "QEMU emulator version 10.0.2"}))
    assert [one[0].code for one in replay_file(path)] == [None, None]
    path.write_text(json.dumps(whole | {"haw": 31, "ver": "0x60"}))
    assert [one[0].code for one in replay_file(path)] == [0x72, 0x72]
    assert read_file(path).identity.ver == 0x60
    assert FRCD["FR"].get(replay_file(path)[0][0].record or (0, 0)) == 0x72


GOOD = {"rtaddr": "0x1400", "image": {"0x1000": "0x2001"}, "probes": [{"bdf": 16, "iova": 0}]}
BAD_CASES = [
    ({"rtaddr": None}, "case.rtaddr must be a number or text like 0x1000, not None"),
    ({"rtaddr": "root"}, "case.rtaddr must be a number"),
    ({"rtaddr": True}, "case.rtaddr must be a number"),
    ({"rtaddr": 1.5}, "case.rtaddr must be a number"),
    ({"rtaddr": 1 << 64}, "case.rtaddr must be between 0 and 0xffffffffffffffff"),
    ({"image": None}, "case.image must be an object"),
    ({"image": [1]}, "case.image must be an object"),
    ({"image": {"x": 1}}, "case.image must be a number"),
    ({"image": {"0x1004": 1}}, "case.image must have addresses that are a multiple of 8"),
    ({"image": {hex(RAM): 1}}, "below 0x100000, not 0x100000"),
    ({"image": {"0x1000": "one"}}, r"case.image\[0x1000\] must be a number"),
    ({"image": {"0x1000": -1}}, r"case.image\[0x1000\] must be between 0"),
    ({"probes": None}, "case.probes must be a list"),
    ({"probes": "no"}, "case.probes must be a list"),
    ({"probes": [7]}, r"case.probes\[0\] must be an object"),
    ({"probes": [{"iova": 0}]}, r"case.probes\[0\].bdf must be a number"),
    ({"probes": [{"bdf": 1 << 16, "iova": 0}]}, r"case.probes\[0\].bdf must be between 0 and 0xffff"),
    ({"probes": [{"bdf": "zz:00.0", "iova": 0}]}, "a requester ID must look like"),
    ({"probes": [{"bdf": 0}]}, r"case.probes\[0\].iova must be a number"),
    ({"probes": [{"bdf": 0, "iova": 1 << 64}]}, r"case.probes\[0\].iova must be between"),
    ({"probes": [{"bdf": 0, "iova": 0, "write": 1}]}, r"case.probes\[0\].write must be true or false, not 1"),
    ({"probes": [{"bdf": 0, "iova": 0, "access": "look"}]}, "access must be one of read, write, execute, atomic"),
    ({"probes": [{"bdf": 0, "iova": 0, "access": "read", "write": True}]}, "write must agree with its access 'read'"),
    ({"probes": [{"bdf": 0, "iova": 0, "pasid": 1 << 20}]}, r"pasid must be between 0 and 0xfffff"),
    ({"probes": [{"bdf": 0, "iova": 0, "privileged": "yes"}]}, "privileged must be true or false"),
    ({"probes": [{"bdf": 16, "iova": 0}, {"bdf": 16}]}, r"case.probes\[1\].iova"),
]


@pytest.mark.parametrize(("change", "says"), BAD_CASES, ids=[says[:40] for _, says in BAD_CASES])
def test_a_malformed_case_is_refused_with_the_place(change, says):
    """Before any request is made: a case whose last probe is wrong gives no verdict at all."""
    with pytest.raises(ValueError, match=says):
        replay(cast("Case", GOOD | change), CARD, RAM)
    with pytest.raises(ValueError, match=says):
        load(cast("Case", GOOD | change), CARD, RAM)


@pytest.mark.parametrize("ram", [0, -4096, 0x1001, 1 << 60])
def test_a_memory_that_cannot_be_is_refused(ram):
    """Whole frames, at least one, and not more than addresses reach."""
    with pytest.raises(ValueError, match="ram must be a multiple of 4096"):
        replay(cast("Case", GOOD), CARD, ram)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cap": None}, "file.cap must be a number"),
        ({"cap": 0}, "haw must be between 13 and 52, not 1"),
        ({"ecap": "x"}, "file.ecap must be a number"),
        ({"ram": None}, "file.ram must be a number"),
        ({"ram": "0x1001"}, "ram must be a multiple of 4096"),
        ({"haw": 60}, "haw must be between 13 and 52"),
        ({"cases": {}}, "file.cases must be a list"),
        ({"cases": [GOOD, GOOD | {"rtaddr": "?"}]}, r"file.cases\[1\].rtaddr must be a number"),
        (
            {"cases": [GOOD | {"probes": [{"bdf": 1, "iova": "?"}]}]},
            r"file.cases\[0\].probes\[0\].iova must be a number",
        ),
    ],
)
def test_a_malformed_file_is_refused_with_the_place(tmp_path, change, says):
    """The whole file is checked before the first case is made."""
    whole = {"cap": CARD.cap(), "ecap": CARD.ecap(), "ram": RAM, "cases": [GOOD]}
    path = tmp_path / "cases.json"
    path.write_text(json.dumps(whole | change))
    with pytest.raises(ValueError, match=says):
        read_file(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "7", '{"ram": 4096}', "null"])
def test_what_is_no_recording_is_refused(tmp_path, text):
    """Broken JSON and JSON of another shape."""
    path = tmp_path / "cases.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"."):
        replay_file(path)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    """Nothing is hidden from who asked for it."""
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "nothing.json")


def test_a_file_that_is_nested_too_deeply_is_malformed(tmp_path):
    """Not an error of the interpreter."""
    path = tmp_path / "deep.json"
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(ValueError, match="deeply"):
        replay_file(path)
