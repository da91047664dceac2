"""One command for a machine with a GPU that is there for a quarter of an hour: `python -m specbound.bench.gpu`.

Knows stages, their order and budgets, what to carry to the machine and where results go. A stage is one module and one
line of `stages`. What stands between the command and a stage imports neither torch nor any package that a bare machine
may lack.
"""
