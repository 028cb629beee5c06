"""`python -m benchmarks`: what the kernels cost beside the published formulation and the closed forms in torch.

timed_cases.py  the table: a new case is one line
published.py   the published formulation, transcribed
closed_forms.py  what a user would otherwise write in torch
competitors.py who runs in a case, and how
gate.py        nobody is timed who is wrong
measure.py     time; memory.py  peak extra memory, in a process of its own
report.py      tables, CSV and plot

`python -m benchmarks.patched`: the authors' code before and after it is patched.
"""
