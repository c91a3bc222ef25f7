"""The second opinion where a guest owns its table of PASIDs: SMMUv3 and AMD.

Whatever the guest writes into its table, the second level of its device's entry bounds it; so entries of devices, their
tags, and the lines of caches are all that has to be compared. Tables of the host (stage 1 alone, no host table) lead to
its processes.
"""

from __future__ import annotations

from pasidlab.kernel.iommu.contract import PASID_RID2PASID
from tests.properties.isolation_oracle import (
    ADDRESS,
    FIRST_NUMBERS,
    HOST,
    NOBODY,
    WHOLE_DIRECTORY,
    Oracle,
    Outsider,
    Owner,
)

__all__ = ["AmdOracle", "SmmuOracle"]


class WholeFunctions(Oracle):
    """Where a guest owns its table: a function is one VM's or the host's, and so is every entry for it."""

    def entries(self, directory=WHOLE_DIRECTORY):
        """Every device's entry in the real table: requester ID, 0, words; and those of PASIDs that the host has."""
        for rid in self.devices:
            if (words := self.device_words(rid)) is not None:
                yield rid, PASID_RID2PASID, words
                yield from self.host_table(rid, words)

    def look(self, directory=FIRST_NUMBERS):
        """Beside what is true everywhere: nobody shares a tag, and a cached entry of a device is its owner's, too."""
        super().look(directory)
        for rid, words in self.cached_devices():
            if rid in self.devices:
                self.entry(rid, PASID_RID2PASID, words)
        self.tags_are_apart()

    def tags_are_apart(self):
        """No two owners, and no two tables of one owner, use one tag of translations."""
        seen: dict[int, tuple[Owner, object]] = {}
        for rid in self.devices:
            words, owner = self.device_words(rid), self.owner(rid, None)
            if words is None or owner is HOST or (tag := self.tag_of(words)) is None:
                continue
            before = seen.setdefault(tag[0], (owner, tag[1]))
            if before != (owner, tag[1]):
                raise Outsider(f"{owner.name} and {before[0].name} share the tag {tag[0]} of two tables")
            if tag[0] in self.host_tags():
                raise Outsider(f"{owner.name} shares the tag {tag[0]} with the host")

    def host_tags(self):
        """The tags that devices of the host use."""
        words = [self.device_words(rid) for rid in self.devices if self.owner(rid, None) is HOST]
        return {tag[0] for one in words if one is not None and (tag := self.tag_of(one)) is not None}

    def owners(self):
        """Whose translations a tag names: VMs by their devices' entries."""
        found = {}
        for rid in self.devices:
            words, owner = self.device_words(rid), self.owner(rid, None)
            if words is not None and owner is not HOST and (tag := self.tag_of(words)) is not None:
                found[tag[0]] = owner
        return found


class SmmuOracle(WholeFunctions):
    """Stream table and context descriptors, as facts 3 has them."""

    def device_words(self, rid):
        """The stream table entry of a device; ``None`` where there is none that is valid."""
        base, how = self.register(0x80) & 0x000F_FFFF_FFFF_FFC0, self.register(0x88, 4)
        size, split = how & 63, how >> 6 & 31
        if rid >> size:
            return None
        if how >> 16 & 3:
            (above,) = self.memory.load_words(base + (rid >> split) * 8, 1)
            if not above & 31 or (rid & (1 << split) - 1) >= 1 << (above & 31) - 1:
                return None
            at = (above & 0x000F_FFFF_FFFF_FFC0) + (rid & (1 << split) - 1) * 64
        else:
            at = base + rid * 64
        words = self.memory.load_words(at, 8)
        return words if words[0] & 1 else None

    def host_table(self, rid, words):
        """The descriptors of an entry with stage 1 alone, the host's; one with both walks disabled leads nowhere."""
        if words[0] >> 1 & 7 != 5:
            return
        root, form, count = words[0] & 0x000F_FFFF_FFFF_FFC0, words[0] >> 4 & 3, 1 << (words[0] >> 59)
        leaf = min(count, 1 << (20, 6, 10, 10)[form])
        tables = [root]
        if form:
            tops = [word for at in range(0, 8 * count // leaf, 4096) for word in self.memory.load_words(root + at, 512)]
            tables = [word & ADDRESS if word & 1 else None for word in tops[: count // leaf]]
        for top, table in enumerate(tables):
            for page in range(0, 64 * leaf, 4096) if table is not None else ():
                found = self.memory.load_words(table + page, min(512, 8 * leaf))
                for at, first in enumerate(found[::8] if any(found) else ()):
                    if first >> 31 & 1 and not first >> 14 & first >> 30 & 1:
                        yield rid, top * leaf + page // 64 + at, found[8 * at : 8 * at + 8]

    def entry(self, rid, pasid, words):
        """A stream table entry leads to its owner's memory, or (stage 1) to descriptors; those to a process's."""
        owner, config, what = self.owner(rid, pasid), words[0] >> 1 & 7, f"PASID {pasid} of {rid:#x}"
        if pasid:
            for root in [words[1]] * (not words[0] >> 14 & 1) + [words[2]] * (not words[0] >> 30 & 1):
                self.first(what, owner, root)
        elif config & 6 == 6:
            self.bounded(what, owner, words[3])
        elif config in (4, 5):
            self.passing(what, owner)

    def tag_of(self, words):
        """S2VMID, which all devices of a VM share; nothing without stage 2."""
        return (words[2] & 0xFFFF, 0) if words[0] >> 1 & 6 == 6 else None

    def cached_devices(self):
        """The STE cache."""
        return [(rid, line.words) for rid, line in self.caches.stes.items() if line.words[0] & 1]

    def tags(self):
        """What the TLB holds."""
        return list(self.caches.tlb.keys())

    def lines(self):
        """Lines of the TLB: of a VM by its VMID, of the host by the ASID of a descriptor that is there."""
        owners, asids = self.owners(), {}
        for rid, pasid, words in self.entries():
            if pasid and self.owner(rid, None) is HOST:
                asids[words[0] >> 48] = self.owner(rid, pasid)
        for (vmid, asid, page), line in self.caches.tlb.items():
            owner = owners.get(vmid) or asids.get(asid, NOBODY)
            yield f"a TLB line (VMID {vmid}, ASID {asid}, {page << 12:#x})", owner, line.page >> 12


class AmdOracle(WholeFunctions):
    """Device table and GCR3 tables, as facts 4 has them."""

    def device_words(self, rid):
        """The device table entry; one that is not valid lets requests pass."""
        base = self.register(0) & ADDRESS
        return self.memory.load_words(base + rid * 32, 4)

    def host_table(self, rid, words):
        """The GCR3 entries of an entry without a host table: those are the host's."""
        if not (words[0] & 3 == 3 and words[0] >> 55 & 1) or words[0] >> 9 & 7:
            return
        tables = [(0, (words[0] >> 58 & 7) << 12 | (words[1] >> 16 & 0xFFFF) << 15 | words[1] >> 43 << 31)]
        for _ in range(words[0] >> 56 & 3):
            tables = [
                ((first | at) << 9, word & ADDRESS)
                for first, table in tables
                for at, word in enumerate(self.memory.load_words(table, 512))
                if word & 1
            ]
        for first, table in tables:
            for at, word in enumerate(self.memory.load_words(table, 512)):
                if word & 1:
                    yield rid, first | at, (word,)

    def entry(self, rid, pasid, words):
        """A device table entry leads to its owner's memory, or to GCR3 entries; those to a process's."""
        owner, what = self.owner(rid, pasid), f"PASID {pasid} of {rid:#x}"
        if len(words) == 1:
            if pasid:
                self.first(what, owner, words[0])
        elif not words[0] & 1:
            self.passing(what, owner)
        elif words[0] & 2:
            mode, guest = words[0] >> 9 & 7, words[0] >> 55 & 1
            if mode:
                self.bounded(what, owner, words[0], mode)
            elif words[0] >> 61 & 3 or guest:
                self.passing(what, owner)
            if mode and guest and not self.register(0x18) >> 58 & 1:
                raise Outsider(f"{what} of {owner.name} has its GCR3 table at a system-physical address")

    def tag_of(self, words):
        """DomainID, and the GCR3 root and depth that its PASIDs belong to (0 without guest translation)."""
        if words[0] & 3 != 3 or not words[0] >> 9 & 7:
            return None
        root = (words[0] >> 58 & 7, words[1] >> 16 & 0xFFFF, words[1] >> 43 & 0x1FFFFF, words[0] >> 56 & 3)
        return words[1] & 0xFFFF, root if words[0] >> 55 & 1 else 0

    def cached_devices(self):
        """The device table cache."""
        return [(rid, line.words) for rid, line in self.caches.dtes.items()]

    def tags(self):
        """What the TLB holds."""
        return list(self.caches.tlb.keys())

    def lines(self):
        """Lines of the TLB: of a VM by its DomainID, of the host by the PASID."""
        owners = self.owners()
        for (did, tag, page), line in self.caches.tlb.items():
            owner = owners.get(did)
            if owner is None:
                owner = Owner("process", self.processes[tag].name) if tag in self.processes else NOBODY
            if owner is not NOBODY or did not in self.host_tags() or tag > 0:
                yield f"a TLB line (DomainID {did}, PASID {tag}, {page << 12:#x})", owner, line.page >> 12
