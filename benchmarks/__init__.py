"""`python -m benchmarks` times the ops, and compares them with the published formulas and with closed forms in torch.

timed_cases.py         the table of cases
published_formulas.py  the published formulas
closed_forms.py        what a user would otherwise write in torch
competitors.py         the implementations that a case compares
other_revision.py      one more implementation: the kernels of another git revision
gate.py                refuses to time an implementation whose result is wrong
measure.py             measures time
memory.py              measures peak extra memory, in a separate process
report.py              the rows of the results, the targets, and tables on the screen
page.py                the results as a page

`python -m benchmarks.clients` compares computations of other projects with the ops, or with a checkout of their code.
`python -m benchmarks.patched` times the authors' code before and after it is patched.
`python -m benchmarks.time_to_quality` measures time to quality, of the published training loop and of `bfn`.
"""
