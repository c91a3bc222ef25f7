"""One row of the table of deviations."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Deviation"]


class Deviation(NamedTuple):
    """A place where code and documents, or documents among themselves, say different things.

    ``breaks`` holds the numbers of the invariants that break with this deviation (and its ``needs``) switched on;
    empty where the harm is none that an invariant names. ``site`` is the function or value that decides, as
    ``module:name``. ``needs`` are the names of the deviations without which this one does no harm. ``lacks``: what the
    model lacks to act it out; such a row has no site and breaks nothing here.
    """

    name: str
    subject: str
    code: str
    documents: str
    model: str
    source: str
    breaks: tuple[int, ...] = ()
    site: str = ""
    needs: tuple[str, ...] = ()
    lacks: str = ""

    @property
    def turns_on(self) -> str:
        """Which column a switch turns on: ``code``, or ``documents`` where the model does as the code did."""
        return "documents" if self.model.startswith("as the code") else "code"

    @property
    def effect(self) -> str:
        """What breaks and with whom, in a few words."""
        if self.lacks:
            return f"not acted out: {self.lacks}"
        broken = ", ".join(map(str, self.breaks)) or "-"
        return f"{broken}, with {', '.join(self.needs)}" if self.needs else broken

    def __str__(self) -> str:
        breaks = "no invariant" if self.effect == "-" else self.effect
        decided = f"; decided in {self.site}" if self.site else ""
        return (
            f"{self.name}: {self.subject}\n"
            f"  the code:      {self.code}\n"
            f"  the documents: {self.documents}\n"
            f"  the model:     {self.model}\n"
            f"  source: {self.source}; breaks: {breaks}{decided}"
        )
