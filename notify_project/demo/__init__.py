"""The demo: traffic through the public API of a running stack, followed to its end and reported."""
