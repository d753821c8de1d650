#!/usr/bin/env python3
"""Django's command line, with the environment of ``make run`` (``.local/env``) if there is one."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notify_project.settings.base")
    from django.core.management import execute_from_command_line  # noqa: PLC0415 - after the settings are named

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
