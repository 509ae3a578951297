"""Model long sequences and forecast time series: `linmap.sequence.olinear`."""
