"""The local stack: PostgreSQL and Valkey from wheels, and the platform's own processes around them.

Used by ``make run``, by the tests and by everything that needs a whole platform on one machine. Nothing here is
imported by the platform itself.
"""
