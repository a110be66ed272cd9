"""Trained models outside of training: one file that writes text without TensorFlow."""
