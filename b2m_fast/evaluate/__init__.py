"""What is measured of a trained network: robustness, reconstruction, time to a criterion, distances between brains."""
