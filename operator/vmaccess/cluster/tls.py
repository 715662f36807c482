"""TLS sessions taken up again: of the many connections that a burst of writes opens, few are shaken hands on in full."""

from __future__ import annotations

import ssl


def resume(context: ssl.SSLContext) -> None:
    """Have each connection of a client's context take up the session of one before it to the same host.

    A full handshake takes 3 ms of CPU, two thirds of them the API server's, mostly for a signature; one that takes up a session
    takes half of that. Who the server is was checked when the session began. One that it does not know any more, it declines.
    """
    established: dict[str | None, ssl.SSLObject] = {}  # the newest, until its session has been read
    sessions: dict[str | None, ssl.SSLSession] = {}

    class Resuming(ssl.SSLObject):
        begun = False

        def do_handshake(self) -> None:
            host = self.server_hostname
            if not self.begun:
                self.begun = True
                earlier = established.pop(host, None)
                # With TLS 1.3 a session can be taken up once the first answer has come, so it is not looked at before.
                if earlier is not None and (session := earlier.session) is not None and session.has_ticket:
                    sessions[host] = session
                if host in sessions:
                    self.session = sessions[host]
            super().do_handshake()
            established[host] = self

    context.sslobject_class = Resuming
