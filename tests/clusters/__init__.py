"""Real systems that the tests start: a package per system, and what they share."""
