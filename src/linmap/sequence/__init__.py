"""Model long sequences (`linmap.sequence.hippo`, `.s4`) and forecast time series (`.olinear`)."""
