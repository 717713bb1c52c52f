"""The error of a user's input, as distinct from a defect of the program."""


class InputError(ValueError):
    """An argument, file or environment that the user can put right.

    The message is one line that names the argument, its value and what to do; command lines print it without a
    traceback and exit with status 2.
    """
