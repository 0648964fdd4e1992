"""`guildhall doctor`: looks at a running suite and says, in a line per check, what is well and what to do otherwise."""
