"""Hyper-parameter search with Optuna: search space, study, trials and report."""
