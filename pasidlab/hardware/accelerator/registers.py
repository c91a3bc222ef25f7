"""BAR0 of the accelerator: capability registers, the command register, and one configuration entry a work queue.

The same registers serve the silicon and a hypervisor's emulated copy of it; what a command does is the hook
``_command``. Source: Linux ``drivers/dma/idxd/registers.h`` and ``device.c``.

Rules kept: a queue's configuration can be written only while that queue is disabled, its state and occupancy never by
software; with GENCAP.config_en = 0 only PASID, PASID enable and privilege can be written (a mediated device).
Registers that do not exist read as zero and ignore writes.

The tables of interrupt messages (:mod:`.interrupts`) lie on pages of their own; a mediated device has none, it uses its
parent's.

Left out: groups and engines (one group, one engine), causes of interrupts other than completions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, NamedTuple

from pasidlab.hardware.accelerator import register_map as at
from pasidlab.hardware.accelerator.commands import INTERRUPT_HANDLES, Command, CommandError
from pasidlab.hardware.accelerator.enable_rules import QueueCheck, enable_wq_error
from pasidlab.hardware.accelerator.engine import supported_opcodes
from pasidlab.hardware.accelerator.interrupts import CompletionInterrupts
from pasidlab.hardware.config_space import ConfigSpace, PciIdentity
from pasidlab.hardware.layouts.dsa import CMD, CMDSTS, GENCAP, GENSTS, MSIX_PERM, OFFSETS, SWERR, WQCAP, WQCFG
from pasidlab.hardware.register_file import RegisterFile
from pasidlab.timeline import HARDWARE, Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pasidlab.timeline import Timeline

__all__ = ["DSA", "AcceleratorRegisters", "QueueSetup"]

DSA: Final = PciIdentity(0x8086, 0x0B25, 0x088000)
"""Intel's Data Streaming Accelerator, "other system peripheral"."""
_MEDIATED: Final = ("pasid", "pasid_en", "priv")
_CONFIGURABLE: Final = (
    *(
        "wq_size",
        "wq_thresh",
        "mode",
        "bof",
        "ats_disable",
        "priority",
        *_MEDIATED,
        "max_xfer_shift",
        "max_batch_shift",
    ),
    *("occupancy_inth", "occupancy_table_sel", "occupancy_limit", "occupancy_int_en"),
)
_PASID_DWORD: Final = 2


class QueueSetup(NamedTuple):
    """How a queue is configured at power-on (on a real machine ``accel-config`` does this once, at boot)."""

    dedicated: bool = False
    size: int = 16
    threshold: int | None = None


class AcceleratorRegisters(RegisterFile, ABC):
    """The registers as an MMIO target. ``setup`` says how many work queues there are, and of which kind."""

    actor = "accelerator"

    def __init__(
        self,
        timeline: Timeline,
        path: str,
        setup: Sequence[QueueSetup],
        altitude: str = HARDWARE,
        configurable: bool = True,
        ats: bool = True,
    ) -> None:
        super().__init__(timeline, path, altitude)
        self.config = ConfigSpace(timeline, f"{path}.config", DSA, ats=ats)
        self.lay_out(setup, configurable)

    def lay_out(self, setup: Sequence[QueueSetup], configurable: bool = True) -> None:
        """Make the registers of these work queues; once, at construction."""
        if not 1 <= len(setup) <= at.MAX_QUEUES:
            raise ValueError(f"an accelerator must have between 1 and {at.MAX_QUEUES} queues, not {len(setup)}")
        self.setup = tuple(setup)
        self.configurable = configurable
        self.interrupts = CompletionInterrupts(self)
        self.power_on()

    @property
    def label(self) -> str:
        """The name by which events speak of this device."""
        return self.path

    def power_on(self) -> None:
        """All registers at their reset values."""
        self.clear()
        config_en = int(self.configurable)
        modes = {queue.dedicated for queue in self.setup}
        self.put(at.VERSION, at.VERSION_1)
        self.set_fields(
            *(at.GENCAP, GENCAP), overlap_copy=1, cmd_cap=1, max_xfer_shift=31, max_batch_shift=10, config_en=config_en
        )
        self.set_fields(at.GENCAP, GENCAP, block_on_fault=1, max_ims_mult=config_en)
        self.set_fields(at.WQCAP, WQCAP, total_wq_size=sum(queue.size for queue in self.setup), num_wqs=self.num_wqs)
        self.set_fields(
            at.WQCAP, WQCAP, shared_mode=config_en | (False in modes), dedicated_mode=config_en | (True in modes)
        )
        self.set_fields(at.WQCAP, WQCAP, priority=1, occupancy=1)
        self.put(at.OPCAP, sum(1 << opcode for opcode in supported_opcodes()))
        self.set_fields(at.OFFSETS, OFFSETS, wqcfg=at.WQCFG // at.TABLE_UNIT, msix_perm=at.MSIX_PERM // at.TABLE_UNIT)
        if self.configurable:
            self.set_fields(at.OFFSETS, OFFSETS, ims=at.IMS // at.TABLE_UNIT)
        self.put(at.CMDCAP, sum(1 << command for command in self.commands()))
        for wq in range(self.num_wqs):
            self.reset_wqcfg(wq)

    def commands(self) -> tuple[Command, ...]:
        """What the CMDCAP register lists."""
        return tuple(command for command in Command if command not in INTERRUPT_HANDLES)

    def reset_wqcfg(self, wq: int) -> None:
        """A queue's configuration at its power-on values: disabled, no PASID."""
        dedicated, size, threshold = self.setup[wq]
        shared = {} if dedicated else {"wq_thresh": size if threshold is None else threshold}
        defaults = {"priority": 10, "max_xfer_shift": 21, "max_batch_shift": 5}
        words = WQCFG.encode(wq_size=size, mode=int(dedicated), bof=1, **shared, **defaults)
        self.put_words(at.wqcfg_offset(wq), WQCFG, words)

    # --- what drivers, views and emulations read ----------------------------------------------------------------

    @property
    def num_wqs(self) -> int:
        """How many work queues there are."""
        return len(self.setup)

    @property
    def enabled(self) -> bool:
        """Whether the device is enabled."""
        return self.field(at.GENSTS, GENSTS, "state") == 1

    def wq_words(self, wq: int) -> tuple[int, ...]:
        """The words of a queue's configuration, as stored: without its occupancy."""
        return self.get_words(at.wqcfg_offset(wq), WQCFG)

    def wqcfg(self, wq: int) -> tuple[int, ...]:
        """The words of a queue's configuration, as a load sees them."""
        words = self.wq_words(wq)
        occupancy = self.occupancy(wq)
        return WQCFG.change(words, occupancy=occupancy) if occupancy else words

    def wq_field(self, wq: int, name: str) -> int:
        """One field of a queue's configuration."""
        return WQCFG[name].get(self.wqcfg(wq))

    def wq_enabled(self, wq: int) -> bool:
        """Whether a queue takes descriptors (if the device does)."""
        return WQCFG["wq_state"].get(self.wq_words(wq)) == 1

    def wq_pasid(self, wq: int) -> int | None:
        """The PASID in a queue's configuration, or ``None`` when PASIDs are not enabled there."""
        words = self.wq_words(wq)
        return WQCFG["pasid"].get(words) if WQCFG["pasid_en"].get(words) else None

    def occupancy(self, wq: int) -> int:
        """How many descriptors wait in a queue. Registers alone have none."""
        return 0

    # --- MMIO ---------------------------------------------------------------------------------------------------

    def _read64(self, offset: int) -> int:
        wq, within = divmod(offset - at.WQCFG, at.WQCFG_STRIDE)
        return self.wqcfg(wq)[within // 8] if 0 <= wq < self.num_wqs else self.get(offset)

    def _write32(self, offset: int, value: int) -> None:
        wq, within = divmod(offset - at.WQCFG, at.WQCFG_STRIDE)
        vector, half = divmod(offset - at.MSIX_PERM, at.MSIX_PERM_STRIDE)
        if offset == at.CMD:
            self._run_command(value)
        elif offset == at.SWERR:
            self.put(at.SWERR, self.get(at.SWERR) & ~(value & (SWERR["valid"].mask | SWERR["overflow"].mask)))
        elif 0 <= wq < self.num_wqs:
            self._write_wqcfg(wq, within // 4, value)
        elif 0 <= vector <= self.num_wqs and not half:
            self._write_permission(vector, value & ~MSIX_PERM.reserved_mask)

    def _write_permission(self, vector: int, word: int) -> None:
        """Store an MSI-X permission entry, and say whose interrupt the vector is now."""
        offset = at.MSIX_PERM + vector * at.MSIX_PERM_STRIDE
        before = self.interrupts.permission(False, vector)
        self.put32(offset, word)
        after = self.interrupts.permission(False, vector)
        if before != after and before is not None and after is not None:
            words = ["off" if entry.pasid is None else entry.pasid for entry in (before, after)]
            facts = {"device": self.path, "vector": vector, "pasid": after.pasid}
            self.emit(Verb.PROGRAM, f"{self.label} vector {vector} PASID", *words, **facts)

    def signal(self, address: int, data: int) -> None:
        """Send an interrupt message. Registers alone reach nobody."""

    def _write_wqcfg(self, wq: int, dword: int, value: int) -> None:
        mask = _writable(self.configurable, dword)
        if not mask:
            return
        if self.wq_enabled(wq):
            self.emit(Verb.REFUSE, f"{self.label} wq{wq}: WQCFG is read-only while the queue is enabled", wq=wq)
            return
        offset = at.wqcfg_offset(wq, dword)
        old, before = self.get32(offset), self.wq_pasid(wq)
        self.put32(offset, old & ~mask | value & mask)
        if dword == _PASID_DWORD and (old ^ value) & _writable(False, dword):
            after = self.wq_pasid(wq)
            told = [self._pasid_words(wq, pasid) for pasid in (before, after)]
            self.emit(Verb.PROGRAM, f"{self.label} wq{wq} PASID", *told, device=self.path, wq=wq, pasid=after)

    def _pasid_words(self, wq: int, pasid: int | None) -> int | str:
        """What a queue sends: nothing, its own number, or (shared) whatever number comes with each ENQCMD."""
        if pasid is None:
            return "off"
        return pasid if self.wq_field(wq, "mode") else "on, the number comes with ENQCMD"

    # --- commands -----------------------------------------------------------------------------------------------

    def _run_command(self, word: int) -> None:
        command, operand = CMD["cmd"].get((word,)), CMD["operand"].get((word,))
        name = Command(command).name if command in Command._value2member_map_ else f"command {command}"
        self.put32(at.CMD, word)
        self.put_words(at.CMDSTS, CMDSTS, CMDSTS.encode(active=1))
        facts = {"device": self.path, "command": name, "operand": operand}
        event = self.emit(Verb.COMMAND, f"{self.label} {name} {operand:#x}", None, None, **facts)
        with self.timeline.because(event):
            answer = self._command(command, operand)
            error = CommandError(CMDSTS["err"].get((answer,)))
            self.put_words(at.CMDSTS, CMDSTS, CMDSTS.encode(err=error, result=CMDSTS["result"].get((answer,))))
            self.emit(Verb.ANSWER, f"{self.label} {name}", None, error.name, error=error.value, **facts)

    @abstractmethod
    def _command(self, command: int, operand: int) -> int:
        """Carry out a command; returns error code (0: success) and result as the command status register has them."""

    def check_enable_device(self) -> CommandError:
        """What ENABLE_DEVICE would answer."""
        if self.enabled:
            return CommandError.DEV_ENABLED
        if not self.config.bus_master:
            return CommandError.BUSMASTER_EN
        total = sum(self.wq_field(wq, "wq_size") for wq in range(self.num_wqs))
        too_much = total > self.field(at.WQCAP, WQCAP, "total_wq_size")
        return CommandError.WQ_SIZE_ERANGE if too_much else CommandError.SUCCESS

    def check_enable_wq(self, wq: int) -> CommandError:
        """What ENABLE_WQ would answer (see :mod:`enable_rules`)."""
        if not 0 <= wq < self.num_wqs:
            return CommandError.INVAL_WQIDX
        general = GENCAP.decode(self.get_words(at.GENCAP, GENCAP))
        offered = WQCAP.decode(self.get_words(at.WQCAP, WQCAP))
        config = WQCFG.decode(self.wqcfg(wq))
        return enable_wq_error(QueueCheck(config, general, offered, self.enabled, self.config.pasid_enabled))

    def set_enabled(self, enabled: bool) -> None:
        """Change the device's state, and say so."""
        if enabled != self.enabled:
            self.set_fields(at.GENSTS, GENSTS, state=int(enabled))
            self.emit(Verb.ENABLE if enabled else Verb.DISABLE, self.label, device=self.path)

    def set_wq_enabled(self, wq: int, enabled: bool) -> None:
        """Change a queue's state, and say so."""
        if enabled != self.wq_enabled(wq):
            self.set_fields(at.wqcfg_offset(wq), WQCFG, wq_state=int(enabled))
            facts = {"device": self.path, "wq": wq, "pasid": self.wq_pasid(wq)}
            self.emit(Verb.ENABLE if enabled else Verb.DISABLE, f"{self.label} wq{wq}", None, None, **facts)

    def enable_wq(self, wq: int) -> CommandError:
        """Take a queue into use, after :meth:`check_enable_wq` had nothing against it."""
        self.set_wq_enabled(wq, True)
        return CommandError.SUCCESS

    def disable_wq(self, wq: int) -> None:
        """Take a queue out of use; what waits in it was drained or aborted before."""
        self.set_wq_enabled(wq, False)

    def record_error(self, **fields: int) -> None:
        """Fill the software error record; while it holds an error, a further one only sets ``overflow``."""
        if self.field(at.SWERR, SWERR, "valid"):
            self.set_fields(at.SWERR, SWERR, overflow=1)
        else:
            self.put_words(at.SWERR, SWERR, SWERR.encode(valid=1, **fields))


def _writable(configurable: bool, dword: int) -> int:
    """The bits of one WQCFG dword that software may change while the queue is disabled."""
    mask = sum(WQCFG[name].mask for name in (_CONFIGURABLE if configurable else _MEDIATED))
    return mask >> 32 * dword & 0xFFFF_FFFF
