"""Prefect flows, one file per step. A task calls one function of `finsent.steps`; a flow is an order of tasks, no logic."""
