"""One kernel, two altitudes: the same code runs on the host and inside each guest."""
