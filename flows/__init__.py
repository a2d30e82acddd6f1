"""Prefect flows, one file per step. A task calls one function of `finsent.pipeline`; a flow is an order of tasks, no logic."""
