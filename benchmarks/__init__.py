"""Every claim of speed: ours and the alternative in one run. `python -m benchmarks` runs them."""
