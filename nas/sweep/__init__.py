"""Sweeps: trainings with settings that Optuna proposes."""
