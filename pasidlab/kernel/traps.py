"""What a kernel does with a general protection fault that ENQCMD raised in a program.

Models ``try_fixup_enqcmd_gp`` of ``arch/x86/kernel/traps.c`` (Linux 6.1): a thread may never have been told of the
PASID of its process. Its first ENQCMD then raises #GP, the kernel loads IA32_PASID from the mm, and the instruction
runs again. A thread whose register is valid already was fixed up before: its #GP has another cause and ends in SIGSEGV.

SVA here loads the state of a process's one thread at bind, as the 2021 tree did for the threads that ran. The fix-up
serves a thread whose state lacks the PASID for another reason. Left out: every other cause of #GP, and signals (the
caller reports ``-EFAULT``).

Invariant: a thread is fixed up at most once for each time that its state loses the PASID.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pasidlab.hardware.cpu import IA32_PASID
from pasidlab.hardware.layouts.cpu import IA32_PASID_MSR
from pasidlab.timeline import Verb

if TYPE_CHECKING:
    from pasidlab.hardware.cpu import Cpu
    from pasidlab.kernel.process import Process

__all__ = ["fix_up_enqcmd"]


def fix_up_enqcmd(cpu: Cpu, process: Process) -> bool:
    """After a #GP of ``process`` on ``cpu``: whether IA32_PASID was loaded, so that the instruction is to run again.

    ``False``: the process has no PASID, or its thread has IA32_PASID loaded already.

    >>> from types import SimpleNamespace
    >>> from pasidlab.hardware.cpu import Cpu
    >>> from pasidlab.timeline import Timeline
    >>> cpu = Cpu(Timeline(), "cpu0")
    >>> thread = SimpleNamespace(mm=SimpleNamespace(pasid=5), ia32_pasid=0, pid=1, emit=lambda *words, **facts: None)
    >>> fix_up_enqcmd(cpu, thread), hex(cpu.ia32_pasid), fix_up_enqcmd(cpu, thread)
    (True, '0x80000005', False)
    """
    pasid = process.mm.pasid
    if pasid is None or IA32_PASID_MSR["V"].get((process.ia32_pasid,)):
        return False
    process.ia32_pasid = IA32_PASID_MSR.encode(PASID=pasid, V=1)[0]
    process.emit(Verb.HANDLE, "#GP: IA32_PASID was not loaded", after=f"PASID {pasid}", pid=process.pid, pasid=pasid)
    cpu.write_msr(IA32_PASID, process.ia32_pasid)
    return True
