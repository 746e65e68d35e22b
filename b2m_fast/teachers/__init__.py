"""What a recording becomes before it can teach, and the controls that stand in for it."""
