"""Whole tasks, from a text to a trained model with its figures: the demo, translation."""
