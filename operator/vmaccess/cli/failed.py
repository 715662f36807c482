"""The one error that every verb may end with."""


class Failed(Exception):
    """What the command cannot do; the message names the object and the cure."""
