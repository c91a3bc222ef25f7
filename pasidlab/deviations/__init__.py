"""Where the real code did otherwise than its documents say, or its documents disagree: one table, row by row.

The reference model follows the documented rules of the IOASID extensions (2020-21). This table says, for every place
where some version of the code departed from them, what the code did, what the documents say, what the model does, where
that can be read, and which invariants (:data:`pasidlab.invariants.RULES`) a machine with that deviation breaks. Where
the documents are silent the row says "not said", and what one would expect; there the model follows sense.

Sources are sections of ``facts/ioasid.md`` of this project's fact sheets, with the versions they rest on: v2 (August
2020), v3 (September 2020), V4 (February 2021), "code" without a version is the last public tree that carried the whole
stack (2021), v6 of VFIO (2020).

**The switch.** Nothing can be switched on from here yet. Each row names its ``site``: a method or property of a part,
which decides this matter and no other. Every part knows its timeline, and a timeline is one machine; so a descriptor
in the place of the method can answer with the deviant function for the parts of one machine, also for those that are
made later (a VM's KVM, a device's interface), and with the usual one for all others. To switch a row on is to put that
descriptor there, for the row and for what it ``needs``; host and guests run the same kernel, and deviate together.
``tests/deviations`` does exactly this for every row: a scenario that holds on the reference model, and breaks on the
deviating one what the row says, no more and no less. Not every combination can be lived through: two rows together may
drop a reference that nobody holds, which is a mistake (``ValueError``) here. Rows with ``lacks`` have no mechanism here
in which they could happen.
"""

from typing import Final

from pasidlab.deviations.administrators import ADMINISTRATORS
from pasidlab.deviations.binding import BINDING
from pasidlab.deviations.dying import DYING
from pasidlab.deviations.mediated import MEDIATED
from pasidlab.deviations.notifiers import NOTIFIERS
from pasidlab.deviations.row import Deviation
from pasidlab.deviations.sets import SETS
from pasidlab.deviations.spids import SPIDS

__all__ = ["DEVIATIONS", "Deviation"]

DEVIATIONS: Final = DYING + SETS + SPIDS + NOTIFIERS + BINDING + MEDIATED + ADMINISTRATORS
"""The whole table."""
