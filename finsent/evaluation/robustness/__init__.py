"""The robustness suite: perturbations of tweets whose effect on sentiment is known, and the checks that apply them."""
