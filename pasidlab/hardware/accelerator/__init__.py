"""A DSA-like accelerator: registers, portals, work queues and an engine that moves bytes by DMA with PASIDs."""

from pasidlab.hardware.accelerator.commands import Command, CommandError, command_word, queue_bitmap, queues_of
from pasidlab.hardware.accelerator.descriptor import Completion, CompletionStatus, Descriptor, Flag, Opcode
from pasidlab.hardware.accelerator.device import Accelerator
from pasidlab.hardware.accelerator.portals import Portal, Portals
from pasidlab.hardware.accelerator.registers import AcceleratorRegisters, QueueSetup
from pasidlab.hardware.config_space import ConfigSpace

__all__ = [
    "Accelerator",
    "AcceleratorRegisters",
    "Command",
    "CommandError",
    "Completion",
    "CompletionStatus",
    "ConfigSpace",
    "Descriptor",
    "Flag",
    "Opcode",
    "Portal",
    "Portals",
    "QueueSetup",
    "command_word",
    "queue_bitmap",
    "queues_of",
]
