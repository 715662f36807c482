"""Entry point of `kubectl vmaccess`: reads the command line, and tells in one line what went wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version

from vmaccess.cli import credentials, kubeconfig, rights
from vmaccess.cli import exec as plugin
from vmaccess.cli.connection import add_connection_options
from vmaccess.cli.failed import Failed


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one verb; returns when it went well, exits 1 with a message when it failed, 2 when it was called wrongly."""
    given = _parser().parse_args(arguments)
    try:
        given.run(given)
        sys.stdout.flush()
    except Failed as error:
        _complain(f"error: {error}", error)
        sys.exit(1)
    except OSError as error:  # all others are caught where the file is known
        _complain(f"error: standard output cannot be written: {error.strerror or error}", error)
        with suppress(OSError):
            sys.stdout.close()  # or Python tries again at its end, and says so
        sys.exit(1)
    except KeyboardInterrupt as error:
        _complain("interrupted", error)
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kubectl vmaccess",
        usage="%(prog)s VERB GRANT [OPTIONS]    (all options come after the verb, --kubeconfig and --context too)",
        description="Works with VMAccessGrants, as you: with your kubeconfig and your rights, never with the operator's.",
        epilog="`kubectl vmaccess VERB --help` tells more about a verb.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('vmaccess')}")
    verbs = parser.add_subparsers(prog=parser.prog, dest="verb", required=True, metavar="VERB")
    connection = argparse.ArgumentParser(add_help=False)
    add_connection_options(connection.add_argument_group("connection"))
    kubeconfig.add_verb(verbs, connection)
    credentials.add_verbs(verbs, connection)
    plugin.add_verb(verbs, connection)
    rights.add_verb(verbs, connection)
    return parser


def _complain(line: str, error: BaseException) -> None:
    print(line, *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
