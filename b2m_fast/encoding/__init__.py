"""Models that predict responses from features of stimuli, and how good they are."""
