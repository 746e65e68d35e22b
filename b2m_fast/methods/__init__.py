"""The three methods, and the loop that trains them."""
