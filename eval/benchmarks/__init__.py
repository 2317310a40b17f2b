"""Public benchmarks, in the record format that each is published in: one file each."""
