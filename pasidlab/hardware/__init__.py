"""What silicon does: memory, PCI Express, the IOMMU, the processor, the accelerator. Knows nothing about software."""
