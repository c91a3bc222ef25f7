"""The identity card of an AMD IOMMU: what its feature registers say, and the few things that they do not.

Models the choices a chip (or the author of an emulated unit) makes: EFR and EFR2 are encoded from it, the walk obeys
it. Every field of ``amd_efr`` and ``amd_efr2`` is an attribute with the name of the field in lower case and the
register's value: PASIDs have ``pasmax + 1`` bits, ``hats`` 0 to 2 are 4 to 6 host levels (3: no host translation, as
emulated units say it; Linux then uses guest tables for everything), ``gats`` 0 and 1 are 4 and 5 guest levels (2 is
taken for 5), ``glx`` 0 to 2 are 1 to 3 levels of GCR3 tables.

Two things are not in those registers: ``address_bits`` (width of a physical address; firmware tells it in the IVRS
table), ``caches`` (whether the unit keeps what it has read, until it is told to forget; hardware may, and software must
assume it does). That the unit can talk to device TLBs (firmware tells it in the IVHD flags) is taken as given.

A card that no unit can have is refused: values that do not fit or are reserved, features that need another one.
UNVERIFIED: which features need which (taken: GIOSUP and GCR3TRP need GT, GCR3TRP needs host translation, HDSUP needs
HASUP, PPRAUTORSP needs PPR).

Nothing happens by these attributes alone, they are only shown: XT, GA, GAM, HE, PC, EPHSUP, SNP.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from pasidlab.hardware.bits import Layout
from pasidlab.hardware.layouts.amd import EFR, EFR2

__all__ = ["NO_HOST_LEVELS", "AmdIdentity"]

NO_HOST_LEVELS = 3
"""The value of HATS that says: no host translation."""
_MOST_ADDRESS_BITS = 52
_NEEDS = (
    ("giosup", "gt"),
    ("gcr3trp", "gt"),
    ("hdsup", "hasup"),
    ("pprautorsp", "ppr"),
)
"""A feature, and the one without which no unit can have it."""


@dataclass(frozen=True, slots=True)
class AmdIdentity:
    """What one unit can do. The default is a server's unit with everything that nested translation and shared virtual
    addressing need; as in all hardware so far, PASIDs have 16 bits.

    >>> host = AmdIdentity()
    >>> hex(host.efr()), hex(host.efr2())
    ('0x17420f0000995b', '0x8')
    >>> AmdIdentity.from_registers(host.efr(), host.efr2()) == host
    True
    >>> AmdIdentity.guest().hats, AmdIdentity(hats=0).expression
    (3, 'AmdIdentity(hats=0)')
    >>> AmdIdentity(glx=3)
    Traceback (most recent call last):
    ...
    ValueError: glx must be between 0 and 2, not 3 (EFR.GLX, facts/hardware.md 4)
    """

    # EFR
    pref: bool = True
    ppr: bool = True
    xt: bool = False
    nx: bool = True
    gt: bool = True
    ia: bool = True
    ga: bool = False
    he: bool = True
    pc: bool = False
    hats: int = 2
    gats: int = 1
    glx: int = 2
    gam: int = 0
    pasmax: int = 15
    pprautorsp: bool = True
    msicapmmio: bool = True
    giosup: bool = True
    hasup: bool = True
    ephsup: bool = True
    hdsup: bool = True
    snp: bool = False
    # EFR2
    gcr3trp: bool = True
    # elsewhere
    address_bits: int = 48
    caches: bool = True

    def __post_init__(self) -> None:
        """Refuse a card that no unit can have; ``TypeError`` for what is no number or no flag."""
        for field in fields(self):
            wanted, value = type(field.default), getattr(self, field.name)
            if type(value) is not wanted:
                raise TypeError(f"{field.name} must be {wanted.__name__}, not {value!r}")
        for name, most, rule in (
            ("hats", NO_HOST_LEVELS, "EFR.HATS"),
            ("gats", 2, "EFR.GATS"),
            ("glx", 2, "EFR.GLX"),
            ("gam", 7, "width of EFR.GAM"),
            ("pasmax", 19, "EFR.PASmax, a PASID has at most 20 bits"),
        ):
            self._check(name, 0, most, rule)
        self._check("address_bits", 13, _MOST_ADDRESS_BITS, "address bits of a paging entry")
        for name, needed in _NEEDS:
            if getattr(self, name) and not getattr(self, needed):
                raise ValueError(f"{name} must be False when {needed} is False, not True (EFR, UNVERIFIED)")
        if self.gcr3trp and self.hats == NO_HOST_LEVELS:
            raise ValueError("gcr3trp must be False when hats is 3, not True (no host translation, UNVERIFIED)")

    def _check(self, name: str, least: int, most: int, rule: str) -> None:
        value = int(getattr(self, name))
        if not least <= value <= most:
            raise ValueError(f"{name} must be between {least} and {most}, not {value} ({rule}, facts/hardware.md 4)")

    @classmethod
    def guest(cls, host: AmdIdentity | None = None) -> AmdIdentity:
        """An emulated unit as a hypervisor gives it to a guest: the guest translation that the ``host`` has, no host
        translation (UNVERIFIED: HATS=3 says so, as Linux and QEMU understand it), no invalidation of everything by one
        command, because that cannot be forwarded as one (our choice).
        """
        host = cls() if host is None else host
        return replace(
            host, hats=NO_HOST_LEVELS, gcr3trp=False, ia=False, hasup=False, hdsup=False, pref=False, snp=False
        )

    @classmethod
    def from_registers(cls, efr: int, efr2: int, address_bits: int = 48) -> AmdIdentity:
        """The card of a unit of which only registers are known. Bits that ``EFR`` and ``EFR2`` do not name are
        dropped. A ``ValueError`` says which field is impossible.
        """
        card = cls()  # still being made, hence not frozen yet
        for layout, word in ((EFR, efr), (EFR2, efr2)):
            for field in layout:
                value = field.get((word,))
                object.__setattr__(card, field.name.lower(), bool(value) if field.width == 1 else value)
        return replace(card, address_bits=address_bits)

    @property
    def expression(self) -> str:
        """Python that makes this card: what differs from the default one.

        >>> AmdIdentity(ppr=False, pprautorsp=False).expression
        'AmdIdentity(ppr=False, pprautorsp=False)'
        """
        usual = AmdIdentity()
        named = [(field.name, getattr(self, field.name)) for field in fields(self)]
        words = [f"{name}={value!r}" for name, value in named if value != getattr(usual, name)]
        return f"{type(self).__name__}({', '.join(words)})"

    def check_silicon(self) -> None:
        """``ValueError`` for a card that only the emulated unit of a guest may have."""
        if self.hats == NO_HOST_LEVELS:
            raise ValueError("hats must be 0, 1 or 2, not 3 (without host translation no device can be given to a VM)")

    @property
    def host_levels(self) -> int:
        """The most levels of a host page table; 0 without host translation."""
        return 0 if self.hats == NO_HOST_LEVELS else self.hats + 4

    @property
    def guest_levels(self) -> int:
        """The most levels of a guest page table."""
        return 5 if self.gats else 4

    @property
    def pasid_bits(self) -> int:
        """How many bits a PASID has."""
        return self.pasmax + 1

    def efr(self) -> int:
        """The extended feature register."""
        return self._encode(EFR)

    def efr2(self) -> int:
        """The second extended feature register."""
        return self._encode(EFR2)

    def describe(self) -> list[str]:
        """Every field of EFR and EFR2 and what is said elsewhere, one line each.

        >>> AmdIdentity().describe()[1], AmdIdentity().describe()[-2]
        ('EFR PPR = 1: page requests', 'address_bits = 48: width of a physical address (firmware, IVRS table)')
        """
        rows = [
            f"{register} {field.name} = {value}: {field.meaning}"
            for register, layout, word in (("EFR", EFR, self.efr()), ("EFR2", EFR2, self.efr2()))
            for field, value in layout.explain((word,))
        ]
        return [
            *rows,
            f"address_bits = {self.address_bits}: width of a physical address (firmware, IVRS table)",
            f"caches = {int(self.caches)}: keeps what it has read",
        ]

    def _encode(self, layout: Layout) -> int:
        return sum(field.put(int(getattr(self, field.name.lower()))) for field in layout)
