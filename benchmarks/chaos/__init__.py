"""Parts of `benchmarks/month.py`: a plan of faults, the system under them, people who use it, and what must hold afterwards."""
