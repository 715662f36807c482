"""TLS sessions taken up again: of the many connections that a burst of writes opens, few are shaken hands on in full."""

from __future__ import annotations

import ssl
import time

LONGEST = 3600.0  # seconds after which the server shows its certificate again, however often a session has been taken up since


def resume(context: ssl.SSLContext) -> None:
    """Have each connection of a client's context take up the session of one before it to the same host.

    A full handshake takes 3 ms of CPU, two thirds of them the API server's, mostly for a signature; one that takes up a session
    takes half of that. Who the server is was checked when the session began, so sessions of different hosts are kept apart. A
    server that does not know one any more declines it.
    """
    # Each with the time at which the server showed its certificate.
    established: dict[str | None, tuple[ssl.SSLObject, float]] = {}  # the newest, until its session has been read
    sessions: dict[str | None, tuple[ssl.SSLSession, float]] = {}

    def session(host: str | None) -> ssl.SSLSession | None:
        # With TLS 1.3 a session can be taken up once the first answer has come, so it is not looked at before.
        earlier, since = established.pop(host, (None, 0.0))
        if earlier is not None and (found := earlier.session) is not None and found.has_ticket:
            sessions[host] = found, since
        if host in sessions and time.monotonic() - sessions[host][1] > LONGEST:
            del sessions[host]
        return sessions[host][0] if host in sessions else None

    class Resuming(ssl.SSLObject):
        begun = False

        def do_handshake(self) -> None:
            host = self.server_hostname
            if not self.begun:
                self.begun = True
                if (known := session(host)) is not None:
                    self.session = known
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError:
                sessions.pop(host, None)  # should that have been the reason, the next one does without
                raise
            established[host] = self, sessions[host][1] if self.session_reused and host in sessions else time.monotonic()

    context.sslobject_class = Resuming
