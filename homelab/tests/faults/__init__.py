"""The faults that a hub must survive: one file a row, real processes, and what was acknowledged counted afterwards.

`make faults` runs them all. `FAULT_ROUNDS` says how often each is injected, 200 being all.
"""
