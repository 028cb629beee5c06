"""`python -m benchmarks.clients` compares computations of other projects with the ops; see __main__.py.

client.py       what a `Client` has, and how its results are compared
places.py       the table of docs/guides/clients.md: where the computation is in the client's code, and an op's call
atoms.py        atoms: MolCRAFT, MolPilot, GeoBFN
crystals.py     fractional coordinates: CrysBFN
tokens.py       strings and sequences: ChemBFN, ProfileBFN, AbBFN2, torch_bfn
reals.py        actions and images: condBFNPol, bsi
joint.py        what the clients of whole models share
whole_crystals.py   CrysBFN's whole model, in a training step
crystal_runs.py     its sampling runs
ligands.py      MolCRAFT's whole model, in a training step and in sampling runs
client_rows.py  the rows of times, and their table
checkouts.py    calls the client's own functions, if a user has a checkout of its code
"""
