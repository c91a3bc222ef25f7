"""A network card as a third party adds it: processes that have it open send each other packets of 64 bytes."""

from contextlib import suppress

from pasidlab.hardware.config_space import PciIdentity
from pasidlab.hardware.dma import PageMissing
from pasidlab.hardware.function import Function
from pasidlab.hardware.iommu.contract import DmaAborted
from pasidlab.kernel.driver import Driver
from pasidlab.kernel.process import Process

CARD = PciIdentity(vendor=0x1234, device=0x0001, class_code=0x020000)
CHANNEL, PASID, SEND, INBOX, PACKET = 0x20, 0x00, 0x04, 0x08, 0x10


class Card(Function):
    identity = CARD

    def write_register(self, offset: int, value: int) -> None:
        super().write_register(offset, value)
        channel, register = divmod(offset, CHANNEL)
        if register == SEND:
            self.later(f"{channel} {value % 4}", f"carries a packet from channel {channel} to channel {value % 4}")
        elif register == PASID:
            self.drop()

    def run_enabled(self, what: str) -> None:
        sender, receiver = (CHANNEL * int(channel) for channel in what.split())
        pasids = [self.get32(end + PASID) for end in (sender, receiver)]
        with suppress(DmaAborted, PageMissing):  # Such a packet is lost, and the IOMMU has recorded why.
            if all(pasids):
                packet = self.port(pasids[0]).read(self.get(sender + PACKET), 64)
                self.port(pasids[1]).write(self.get(receiver + INBOX), packet)


class CardDriver(Driver):
    identity, channels = CARD, 4

    def program(self, channel: int, pasid: int) -> None:
        self.write(CHANNEL * channel + PASID, pasid, 4)

    def quiesce(self, channel: int, pasid: int) -> None:
        self.write(CHANNEL * channel + PASID, 0, 4)

    def ioctl(self, process: Process, request: str, *numbers: int) -> int:
        channel = self.opened(process)
        if request not in ("inbox", "send"):
            return super().ioctl(process, request, *numbers)
        if request == "inbox":
            self.write(CHANNEL * channel + INBOX, numbers[0])
        else:
            self.write(CHANNEL * channel + PACKET, numbers[1])
            self.write(CHANNEL * channel + SEND, numbers[0], 4)
        return channel
