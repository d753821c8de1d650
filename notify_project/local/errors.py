"""What can go wrong on the way up, said in one line."""


class LocalError(Exception):
    """The local stack cannot start or go on. Its message is one line that names the cause and the mend."""
