"""What each command does, on the silicon and on a hypervisor's emulated copy of it.

Source: Linux ``drivers/dma/idxd/device.c`` and the comments beside the error codes in ``registers.h``. DISABLE waits
until what is queued or in flight has been done, RESET and ABORT drop it; after RESET the configuration has its power-on
values (UNVERIFIED beyond what the driver relies on). Commands for queues fail with DEV_NOT_EN while the device is
disabled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from pasidlab.hardware.accelerator.commands import Command, CommandError, queues_of

__all__ = ["CommandTarget", "carry_out"]


class CommandTarget(Protocol):
    """What commands act on: the device, or its emulation, for which enabling a queue means more."""

    @property
    def num_wqs(self) -> int: ...

    @property
    def enabled(self) -> bool: ...

    def check_enable_device(self) -> CommandError: ...

    def check_enable_wq(self, wq: int) -> CommandError: ...

    def set_enabled(self, enabled: bool) -> None: ...

    def enable_wq(self, wq: int) -> CommandError: ...

    def disable_wq(self, wq: int) -> None: ...

    def reset_wqcfg(self, wq: int) -> None: ...

    def power_on(self) -> None: ...

    def drain(self, wq: int | None = None, pasid: int | None = None) -> int: ...

    def abort(self, wq: int | None = None, pasid: int | None = None) -> int: ...


def _enable_device(device: CommandTarget, operand: int) -> CommandError:
    error = device.check_enable_device()
    if not error:
        device.set_enabled(True)
    return error


def _enable_wq(device: CommandTarget, operand: int) -> CommandError:
    error = device.check_enable_wq(operand)
    return error or device.enable_wq(operand)


def _disable_device(device: CommandTarget, operand: int) -> CommandError:
    if not device.enabled:
        return CommandError.DIS_DEV_EN
    device.drain()
    for wq in range(device.num_wqs):
        device.disable_wq(wq)
    device.set_enabled(False)
    return CommandError.SUCCESS


def _reset_device(device: CommandTarget, operand: int) -> CommandError:
    device.abort()
    for wq in range(device.num_wqs):
        device.disable_wq(wq)
    device.set_enabled(False)
    device.power_on()
    return CommandError.SUCCESS


def _disable_wq(device: CommandTarget, wq: int) -> None:
    device.drain(wq)
    device.disable_wq(wq)


def _reset_wq(device: CommandTarget, wq: int) -> None:
    device.abort(wq)
    device.disable_wq(wq)
    device.reset_wqcfg(wq)


def _each_queue(act: Callable[[CommandTarget, int], object]) -> Callable[[CommandTarget, int], CommandError]:
    """A command whose operand is a queue bitmap: check all of it, then act on each queue."""

    def command(device: CommandTarget, operand: int) -> CommandError:
        wqs = queues_of(operand)
        if not wqs or wqs[-1] >= device.num_wqs:
            return CommandError.INVAL_WQIDX
        if not device.enabled:
            return CommandError.DEV_NOT_EN
        for wq in wqs:
            act(device, wq)
        return CommandError.SUCCESS

    return command


def _whole(act: Callable[[CommandTarget, int], object]) -> Callable[[CommandTarget, int], CommandError]:
    """A command that cannot fail."""

    def command(device: CommandTarget, operand: int) -> CommandError:
        act(device, operand)
        return CommandError.SUCCESS

    return command


_COMMANDS: Final[dict[Command, Callable[[CommandTarget, int], CommandError]]] = {
    Command.ENABLE_DEVICE: _enable_device,
    Command.DISABLE_DEVICE: _disable_device,
    Command.DRAIN_ALL: _whole(lambda device, operand: device.drain()),
    Command.ABORT_ALL: _whole(lambda device, operand: device.abort()),
    Command.RESET_DEVICE: _reset_device,
    Command.ENABLE_WQ: _enable_wq,
    Command.DISABLE_WQ: _each_queue(_disable_wq),
    Command.DRAIN_WQ: _each_queue(lambda device, wq: device.drain(wq)),
    Command.ABORT_WQ: _each_queue(lambda device, wq: device.abort(wq)),
    Command.RESET_WQ: _each_queue(_reset_wq),
    Command.DRAIN_PASID: _whole(lambda device, pasid: device.drain(pasid=pasid)),
    Command.ABORT_PASID: _whole(lambda device, pasid: device.abort(pasid=pasid)),
}


def carry_out(device: CommandTarget, command: int, operand: int) -> CommandError:
    """Do what the command register was told to."""
    known = _COMMANDS.get(Command(command)) if command in Command._value2member_map_ else None
    return known(device, operand) if known else CommandError.INVAL_CMD
