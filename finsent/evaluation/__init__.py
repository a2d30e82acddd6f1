"""Held-out evaluation: metrics, intervals, paired tests, calibration, baselines, plots, and the evidence the gate reads."""
