"""What ENABLE_WQ checks, in order, as a table.

Source: the error codes of Linux ``drivers/dma/idxd/registers.h``; the order index, device, state, mode, PASID is that
of the public mediated-device driver for this accelerator. UNVERIFIED: the order after that, and which code a shared
queue gets whose threshold is zero or above its size (taken: WQ_SIZE); that the sum of all sizes is checked when the
device is enabled, and not again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from pasidlab.hardware.accelerator.commands import CommandError

__all__ = ["QueueCheck", "enable_wq_error"]


class QueueCheck(NamedTuple):
    """All that the decision needs: field values of WQCFG, GENCAP and WQCAP, and two facts about the device."""

    wqcfg: Mapping[str, int]
    gencap: Mapping[str, int]
    wqcap: Mapping[str, int]
    device_enabled: bool
    pasid_capability: bool


Rule = tuple[CommandError, Callable[[QueueCheck], bool]]


def _mode_missing(queue: QueueCheck) -> bool:
    return not queue.wqcap["dedicated_mode" if queue.wqcfg["mode"] else "shared_mode"]


def _pasid_wrong(queue: QueueCheck) -> bool:
    """A shared queue must have PASIDs enabled, and nobody may while the PCI capability is off."""
    return not queue.pasid_capability if queue.wqcfg["pasid_en"] else not queue.wqcfg["mode"]


def _size_wrong(queue: QueueCheck) -> bool:
    size, threshold = queue.wqcfg["wq_size"], queue.wqcfg["wq_thresh"]
    return not size or not (queue.wqcfg["mode"] or 0 < threshold <= size)


_RULES: Final[tuple[Rule, ...]] = (
    (CommandError.DEV_NOTEN, lambda queue: not queue.device_enabled),
    (CommandError.WQ_ENABLED, lambda queue: queue.wqcfg["wq_state"] != 0),
    (CommandError.WQ_MODE, _mode_missing),
    (CommandError.PASID_EN, _pasid_wrong),
    (CommandError.WQ_SIZE, _size_wrong),
    (CommandError.WQ_PRIOR, lambda queue: not queue.wqcfg["priority"]),
    (CommandError.BOF_EN, lambda queue: queue.wqcfg["bof"] > queue.gencap["block_on_fault"]),
    (CommandError.MAX_BATCH_SIZE, lambda queue: queue.wqcfg["max_batch_shift"] > queue.gencap["max_batch_shift"]),
    (CommandError.MAX_XFER_SIZE, lambda queue: queue.wqcfg["max_xfer_shift"] > queue.gencap["max_xfer_shift"]),
)


def enable_wq_error(queue: QueueCheck) -> CommandError:
    """The first rule that the queue breaks, or success."""
    return next((error for error, broken in _RULES if broken(queue)), CommandError.SUCCESS)
