"""Held-out evaluation: metrics, intervals, paired tests, calibration, floors, plots, and the evidence the gate reads."""
