"""The errors a person may see, apart from the modules that raise them so that each can import them."""

import subprocess


class ClusterError(RuntimeError):
    """The cluster cannot do what was asked; the message says what and, where there is one, the cure."""


class BinariesError(ClusterError):
    """The control plane's binaries can neither be found nor built."""


class ComponentError(ClusterError):
    """A component of the control plane ended by itself; the message ends with the tail of its log."""


class KubectlError(subprocess.CalledProcessError):
    """kubectl ended with an error; unlike its parent's, the text shows what kubectl said."""

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.stderr or ''}{self.stdout or ''}".rstrip()
