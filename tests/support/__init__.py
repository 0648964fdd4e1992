"""What the tests stand on: real servers, real people, and refusals that can be compared."""
