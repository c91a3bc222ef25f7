"""An Arm SMMUv3: stream table, context descriptors, both stages of translation, and the three queues.

:class:`~pasidlab.hardware.iommu.smmuv3.unit.SmmuUnit` is the silicon;
:class:`~pasidlab.hardware.iommu.smmuv3.registers.SmmuRegisters` is what a hypervisor's emulated unit shares with it.
"""
