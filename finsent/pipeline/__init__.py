"""One library function per step of the chain; the command line and the flows call these with plain values, nothing else."""
