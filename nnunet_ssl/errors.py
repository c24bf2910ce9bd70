"""The exception for mistakes that the user can repair."""


class UserError(RuntimeError):
    """Something in the data, the folders or the settings is wrong and the user can put it right.

    The message names the file or key, what was found, what is allowed and the command that repairs it. The command line
    prints it without a traceback and exits with status 1.
    """
