"""Which estimator, K, sigma and N suit a problem: measured at a fixed theta."""
