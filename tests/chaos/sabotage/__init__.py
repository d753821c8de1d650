"""For the tests of the harness: a platform with a part torn out, so that the harness must complain.

A Django application that the workers of such a stack are given by their ``DJANGO_SETTINGS_MODULE``; ``CHAOS_SABOTAGE``
says what it takes away. Nothing in the platform knows of it.
"""
