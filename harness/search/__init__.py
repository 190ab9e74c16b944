"""The search: strategies' knobs as a space, Optuna's samplers over it, and the loop that spends a budget on trials.

    layout.py      dp x tp x pp factorisations of the world size
    choosers.py    ways to answer "which value?": at random, read from a plan, every one in turn
    space.py       one define-by-run description of every plan; why a plan cannot run
    showcases.py   the plans that show each strategy once
    spaces.py      several global batch sizes as one space
    evaluation.py  what goes in and out of a trial, budgets, events, summary
    samplers.py    names of samplers
    study.py       the Optuna study in its journal file
    ledger.py      what the study knows of each plan; told and asked in the harness's words
    loop.py        ask, refuse or launch, tell

This package is the only code that knows Optuna; everything above `samplers.py` in the list works without it.
"""
