"""AMD IOMMU (AMD-Vi): registers -> device table -> GCR3 tables -> walk -> faults, and the command buffer.

``unit`` is the silicon; ``registers`` is what silicon and a hypervisor's emulated unit share; ``identity`` says what a
unit can do, ``rules`` what that means for reserved bits, ``tables`` finds device table entry and GCR3 entry, ``walk``
the page.
"""
