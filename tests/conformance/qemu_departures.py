"""Where QEMU 10.0.2's intel-iommu departs from the specification: a table, used to read its verdicts and nowhere else.

Each row says when it applies (to the place where our walk ended) and either what QEMU sees instead (a changed world, in
which the request is made again) or what it answers. A verdict that differs and that no row explains fails the test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pasidlab.hardware.iommu.contract import Stop
from pasidlab.hardware.iommu.vtd.conformance import Case, Probe, Verdict, replay
from pasidlab.hardware.iommu.vtd.identity import VtdIdentity
from pasidlab.hardware.iommu.vtd.rules import VtdRules
from pasidlab.hardware.layouts.vtd import CONTEXT_ENTRY, PASID_DIR_ENTRY, PASID_ENTRY, SL_ENTRY

# Fault codes that QEMU reports under other numbers: (code, whether the unit is the second-stage one) -> read, write.
TABLE_CODES = {0x38: 0x08, 0x39: 0x01, 0x3A: 0x0A, 0x40: 0x09, 0x41: 0x02, 0x42: 0x0B}
SECOND_STAGE_CODES = {
    0x78: (0x07, 0x07),
    0x7B: (0x03, 0x03),
    0x7A: (0x0C, 0x0C),
    0x84: (0x04, 0x04),
    0x79: (0x06, 0x05),
    0x85: (0x05, 0x05),
    0x86: (0x06, 0x06),
}


@dataclass(frozen=True)
class World:
    """One memory, one unit, one request."""

    rtaddr: str
    image: dict[int, int]
    identity: VtdIdentity
    ram: int
    probe: Probe

    def verdict(self) -> Verdict:
        """What our unit says."""
        image = {hex(address): word for address, word in self.image.items()}
        return replay(Case(rtaddr=self.rtaddr, image=image, probes=[self.probe]), self.identity, self.ram)[0]

    def with_words(self, address: int, words: tuple[int, ...]) -> World:
        """The same world with other words at ``address``."""
        return replace(self, image=self.image | {address + 8 * index: word for index, word in enumerate(words)})


@dataclass(frozen=True)
class Departure:
    """A row: the rule, what QEMU does, and ``see``, which returns another world, QEMU's code, or ``None``: not here.

    ``met`` is false for a row that is known from QEMU's documentation of the data but that no public verdict needs.
    """

    specification: str
    qemu: str
    see: Callable[[World, Verdict], World | int | None]
    met: bool = True


def stop(verdict: Verdict, name: str) -> Stop | None:
    """The stop of that name, if the walk got there."""
    return next((one for one in verdict.walk.stops if one.name == name), None)


def _both_halves(world: World, verdict: Verdict) -> int | None:
    root = stop(verdict, "root entry")
    if root is None or verdict.code == 0x3A or not root.words[verdict.request.rid >> 7 & 1] & 1:
        return None
    masks = VtdRules(world.identity).root
    return 0x0A if root.words[0] & masks[0] or root.words[1] & masks[1] else None


def _no_pdts(world: World, verdict: Verdict) -> World | None:
    entry = stop(verdict, "context entry")
    if verdict.code != 0x48 or entry is None:
        return None
    return world.with_words(entry.address, CONTEXT_ENTRY.change(entry.words, PDTS=7))


def _no_directory_check(world: World, verdict: Verdict) -> World | int | None:
    entry = stop(verdict, "PASID directory entry")
    if verdict.code != 0x52 or entry is None:
        return None
    reserved = PASID_DIR_ENTRY.reserved(entry.words)
    return world.with_words(entry.address, (entry.words[0] & ~reserved,)) if reserved else 0x58


def _no_entry_check(world: World, verdict: Verdict) -> World | int | None:
    entry = stop(verdict, "PASID entry")
    if verdict.code != 0x5A or entry is None:
        return None
    masks = VtdRules(world.identity).entry
    if any(word & mask for word, mask in zip(entry.words, masks, strict=True)):
        words = tuple(word & ~mask for word, mask in zip(entry.words, masks, strict=True))
        return world.with_words(entry.address, words)
    return {1: 0x73, 2: 0x7B}[PASID_ENTRY["PGTT"].get(entry.words)]


def _type_first(world: World, verdict: Verdict) -> int | None:
    entry = stop(verdict, "PASID entry")
    if verdict.code != 0x59 or entry is None:
        return None
    return None if PASID_ENTRY["PGTT"].get(entry.words) in VtdRules(world.identity).translations else 0x5B


def _ignored_snoop(world: World, verdict: Verdict) -> World | None:
    """SNP in a second-level leaf of a unit without snoop control."""
    leaf = verdict.walk.stops[-1] if verdict.walk.stops else None
    if verdict.code != 0x7A or leaf is None or not leaf.words[0] & SL_ENTRY["SNP"].mask:
        return None
    return world.with_words(leaf.address, SL_ENTRY.change(leaf.words, SNP=0))


def _always_snoops(world: World, verdict: Verdict) -> World | None:
    entry = stop(verdict, "PASID entry")
    if verdict.code != 0x90 or entry is None:
        return None
    snooping = replace(world, identity=replace(world.identity, smpwcs=True))
    return snooping.with_words(entry.address, PASID_ENTRY.change(entry.words, PWSNP=1))


def _canonical_by_width(world: World, verdict: Verdict) -> World | int | None:
    entry = stop(verdict, "PASID entry")
    if entry is None or PASID_ENTRY["PGTT"].get(entry.words) != 1:
        return None
    address, width = verdict.request.address, {1: 39, 2: 48, 3: 57}[PASID_ENTRY["AW"].get(entry.words)]
    if address >> width - 1 not in {0, (1 << 65 - width) - 1}:
        return None if verdict.code == 0x80 else 0x80
    if verdict.code != 0x80:
        return None
    low = address & (1 << 48) - 1
    canonical = low | (0xFFFF << 48 if low >> 47 else 0)
    return replace(world, probe=Probe(bdf=world.probe["bdf"], iova=canonical, write=world.probe["write"]))


DEPARTURES = (
    Departure("0x3a: reserved bits of the half in use", "both halves are checked", _both_halves),
    Departure("0x48: RID_PASID beyond the directory (PDTS)", "not checked: translates", _no_pdts, met=False),
    Departure("0x52: reserved bits of a directory entry", "not checked, bits above HAW: 0x58", _no_directory_check),
    Departure("0x5a: reserved bits of a PASID entry", "not checked, bits above HAW: 0x7b, 0x73", _no_entry_check),
    Departure("0x59: absent before type", "type first: an empty entry gives 0x5b", _type_first),
    Departure("0x90: PWSNP and ECAP.SMPWCS", "ignored: sets accessed and dirty", _always_snoops),
    Departure("0x7a: SNP in a leaf without ECAP.SC", "ignored in scalable mode", _ignored_snoop, met=False),
    Departure("0x80: canonical by paging mode", "by AW of the PASID entry", _canonical_by_width),
)


def qemu_code(code: int, write: bool, second_stage: bool) -> int:
    """The number that QEMU reports for a reason."""
    if second_stage and code in SECOND_STAGE_CODES:
        return SECOND_STAGE_CODES[code][write]
    return TABLE_CODES.get(code, code)
