"""The IOASID core: sets, numbers, references, notifier chains, allocators."""
