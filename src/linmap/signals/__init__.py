"""Classify EEG and other covariance data."""
