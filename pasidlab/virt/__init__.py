"""What makes guests: VFIO, KVM, mediated devices, and the user-space hypervisor with its emulated IOMMU."""
