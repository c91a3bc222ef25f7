"""Put recorded tables and requests into a fresh unit and hear its verdicts.

Models nothing: it is the door through which verdicts of other implementations (emulators, hardware) are compared with
this one. A *case* is plain data as read from JSON; numbers are integers or text like ``"0x100400"``:

- ``rtaddr``: RTADDR; ``image``: address -> 64-bit word of memory, everything else is zero;
- ``probes``: requests, each with ``bdf`` (the requester ID, also as ``"00:1e.7"``) and ``iova``, and optionally
  ``write`` (default: a read), ``access`` (instead of ``write``: read, write, execute, atomic), ``pasid`` (absent or
  null: the request carries none), ``privileged``.

A *file* holds ``cap``, ``ecap`` and ``ram`` of one unit (optionally ``haw`` and ``ver``) and a list of ``cases``. What
the other implementation said stands in the probes under further names; all names that are not listed here are left
alone. Everything is checked before anything is done: what is malformed is a ``ValueError`` that says where.

The memory does not change between the requests of a case, so whether a unit has caches makes no difference; the unit
used here has none, so that each walk shows every table. What one request marks accessed or dirty stays so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple, NotRequired, TypedDict

from pasidlab.hardware.iommu.contract import Walk
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.registers import FSTS, GCMD, GCMD_SRTP, GCMD_TE, RTADDR
from pasidlab.hardware.iommu.vtd.unit import VtdUnit
from pasidlab.hardware.layouts.vtd import FSTS_REG
from pasidlab.hardware.memory import PAGE_SIZE, PhysicalMemory
from pasidlab.hardware.pcie import PASID_LIMIT, Access, DmaRequest, parse_rid
from pasidlab.timeline import HARDWARE, Timeline

__all__ = ["Case", "Number", "Probe", "Recording", "Scene", "Verdict", "load", "read_file", "replay", "replay_file"]

Number = int | str

_WORD: Final = 1 << 64
_ROOM: Final = 1 << 52
"""No memory is larger than physical addresses can be."""


class Probe(TypedDict):
    """One request."""

    bdf: Number
    iova: Number
    write: NotRequired[bool]
    access: NotRequired[str]
    pasid: NotRequired[Number | None]
    privileged: NotRequired[bool]


class Case(TypedDict):
    """One memory, and the requests to make in it."""

    rtaddr: Number
    image: Mapping[str, Number]
    probes: Sequence[Probe]


class Verdict(NamedTuple):
    """What the unit did: an ``address``; or a fault ``code`` and the ``record`` (two words; ``None``: not recorded).

    ``walk`` is the explanation, asked for before the request was made.
    """

    request: DmaRequest
    address: int | None
    code: int | None
    record: tuple[int, int] | None
    walk: Walk


class Scene(NamedTuple):
    """A case, checked: numbers are numbers, and fit."""

    rtaddr: int
    image: dict[int, int]
    requests: tuple[DmaRequest, ...]

    def replay(self, identity: VtdIdentity, ram: int) -> list[Verdict]:
        """Make every request, in order, in a fresh unit."""
        unit = self.load(identity, ram)
        return [_probe(unit, request) for request in self.requests]

    def load(self, identity: VtdIdentity, ram: int) -> VtdUnit:
        """A fresh unit without caches, with ``ram`` bytes of memory and the image in it, and translation enabled."""
        timeline = Timeline()
        memory = PhysicalMemory(timeline, "ram", ram)
        for address, word in self.image.items():
            memory.store(address, word)
        unit = VtdUnit(timeline, "unit", HARDWARE, memory, replace(identity, caches=False))
        unit.mmio_write(RTADDR, self.rtaddr)
        unit.mmio_write(GCMD, GCMD_SRTP, 4)
        unit.mmio_write(GCMD, GCMD_TE, 4)
        return unit


class Recording(NamedTuple):
    """A file, read and checked: the unit it was made with, its memory in bytes, and its cases."""

    identity: VtdIdentity
    ram: int
    scenes: tuple[Scene, ...]

    def replay(self, identity: VtdIdentity | None = None) -> list[list[Verdict]]:
        """The verdicts of each case, by the file's own unit or by another one."""
        return [scene.replay(self.identity if identity is None else identity, self.ram) for scene in self.scenes]


def load(case: Case, identity: VtdIdentity, ram: int) -> VtdUnit:
    """A fresh unit with the case in its memory; see :meth:`Scene.load`."""
    return _scene(case, ram, "case").load(identity, ram)


def replay(case: Case, identity: VtdIdentity, ram: int) -> list[Verdict]:
    """Make every request of a case, in order; what an earlier one marked accessed or dirty stays so.

    >>> case: Case = {"rtaddr": "0x1400", "image": {}, "probes": [{"bdf": "00:02.0", "iova": 0x5000, "write": True}]}
    >>> verdict, = replay(case, VtdIdentity(), 1 << 20)
    >>> hex(verdict.code or 0), [hex(word) for word in verdict.record or ()]
    ('0x39', ['0x5000', '0x8000003900000010'])
    >>> replay({"rtaddr": 1, "image": {"0x1004": 1}, "probes": []}, VtdIdentity(), 1 << 20)
    Traceback (most recent call last):
    ...
    ValueError: case.image must have addresses that are a multiple of 8 and below 0x100000, not 0x1004
    """
    return _scene(case, ram, "case").replay(identity, ram)


def read_file(path: Path | str) -> Recording:
    """A recording from a JSON file; ``ValueError`` if it is malformed, ``OSError`` if it cannot be read.

    Where the file says that its ``emulator`` is QEMU, the unit obeys RID_PASID, as QEMU does though its ECAP.RPS is 0.
    """
    try:
        data: object = json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("file must not be nested so deeply") from None
    whole = _mapping(data, "file")
    ram = _number(whole.get("ram"), "file.ram", _ROOM + 1)
    optional = {name: _number(whole[name], f"file.{name}", 256) for name in ("haw", "ver") if name in whole}
    cap, ecap = (_number(whole.get(name), f"file.{name}", _WORD) for name in ("cap", "ecap"))
    identity = VtdIdentity.from_registers(cap, ecap, optional.get("haw"), optional.get("ver"))
    if str(whole.get("emulator")).startswith("QEMU"):
        identity = replace(identity, rps=True)
    cases = _list(whole.get("cases"), "file.cases")
    return Recording(identity, ram, tuple(_scene(case, ram, f"file.cases[{at}]") for at, case in enumerate(cases)))


def replay_file(path: Path | str, *, rps: bool | None = None) -> list[list[Verdict]]:
    """The verdicts of every case of a file. ``rps`` overrules what the file says about RID_PASID."""
    recording = read_file(path)
    identity = recording.identity if rps is None else replace(recording.identity, rps=rps)
    return recording.replay(identity)


# --- making requests --------------------------------------------------------------------------------------------------


def _probe(unit: VtdUnit, request: DmaRequest) -> Verdict:
    walk = unit.walk(request)
    answer = unit.translate(request)
    if isinstance(answer, int):
        return Verdict(request, answer, None, None, walk)
    return Verdict(request, None, answer.code, _take_record(unit), walk)


def _take_record(unit: VtdUnit) -> tuple[int, int] | None:
    """Read the pending fault record through the registers and clear it, as a driver does."""
    status = (unit.mmio_read(FSTS, 4),)
    if not FSTS_REG["PPF"].get(status):
        return None
    offset = 16 * (unit.identity.fro + FSTS_REG["FRI"].get(status))
    record = unit.mmio_read(offset), unit.mmio_read(offset + 8)
    unit.mmio_write(offset + 12, 1 << 31, 4)
    return record


# --- checking what was read -------------------------------------------------------------------------------------------


def _scene(case: object, ram: int, where: str) -> Scene:
    if not 0 < ram <= _ROOM or ram % PAGE_SIZE:
        raise ValueError(f"ram must be a multiple of {PAGE_SIZE} and at most {_ROOM:#x}, not {ram:#x}")
    whole = _mapping(case, where)
    rtaddr = _number(whole.get("rtaddr"), f"{where}.rtaddr", _WORD)
    image = {}
    for text, value in _mapping(whole.get("image"), f"{where}.image").items():
        address = _number(text, f"{where}.image", _WORD)
        if address % 8 or address >= ram:
            raise ValueError(
                f"{where}.image must have addresses that are a multiple of 8 and below {ram:#x}, not {address:#x}"
            )
        image[address] = _number(value, f"{where}.image[{text}]", _WORD)
    probes = _list(whole.get("probes"), f"{where}.probes")
    return Scene(rtaddr, image, tuple(_request(probe, f"{where}.probes[{at}]") for at, probe in enumerate(probes)))


def _request(value: object, where: str) -> DmaRequest:
    probe = _mapping(value, where)
    pasid = probe.get("pasid")
    return DmaRequest(
        _rid(probe.get("bdf"), f"{where}.bdf"),
        _number(probe.get("iova"), f"{where}.iova", _WORD),
        _access(probe, where),
        None if pasid is None else _number(pasid, f"{where}.pasid", PASID_LIMIT),
        _flag(probe, "privileged", where),
    )


def _access(probe: Mapping[str, object], where: str) -> Access:
    write, named = _flag(probe, "write", where), probe.get("access")
    if named is None:
        return Access.WRITE if write else Access.READ
    known = {access.value: access for access in Access}
    if not isinstance(named, str) or named not in known:
        raise ValueError(f"{where}.access must be one of {', '.join(known)}, not {named!r}")
    if "write" in probe and write != (named in {Access.WRITE, Access.ATOMIC}):
        raise ValueError(f"{where}.write must agree with its access {named!r}, not be {write}")
    return known[named]


def _flag(probe: Mapping[str, object], name: str, where: str) -> bool:
    value = probe.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"{where}.{name} must be true or false, not {value!r}")
    return value


def _rid(value: object, where: str) -> int:
    if isinstance(value, str) and ":" in value:
        return parse_rid(value)
    return _number(value, where, 1 << 16)


def _number(value: object, where: str, limit: int) -> int:
    """An integer below ``limit``, written as a number or as text."""
    number = value
    if isinstance(value, str):
        try:
            number = int(value, 0)
        except ValueError:
            number = None
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"{where} must be a number or text like 0x1000, not {value!r}")
    if not 0 <= number < limit:
        raise ValueError(f"{where} must be between 0 and {limit - 1:#x}, not {number:#x}")
    return number


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be an object with names, not {value!r}")
    return value


def _list(value: object, where: str) -> Sequence[object]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{where} must be a list, not {value!r}")
    return value
