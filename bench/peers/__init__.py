"""The Python peers, each one module, run in an environment of its own (`bench/requirements-*.txt`).

They know the job (`bench/field/job.py`) and nothing else of this repository. Each follows its own documents; what was
chosen, and where from, stands in its docstring.
"""
