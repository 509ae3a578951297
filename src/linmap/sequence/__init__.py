"""Model long sequences and forecast time series."""
