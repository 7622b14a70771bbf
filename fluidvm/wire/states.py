"""The states of an HTTP connection."""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """
    What a connection does. L{fluidvm.wire.channel.Channel} has a method for each event::

        state       event                                  next state
        ---------   ------------------------------------   --------------------------------------------------------
        (new)       connectionMade                         IDLE; REFUSED if too many connections are open
        IDLE        dataReceived, a whole known call       IDLE; ANSWERING if its answer comes later
        IDLE        dataReceived, a part of a known call   HOLDING
        IDLE        dataReceived, anything else            RECEIVING
        HOLDING     dataReceived, the rest of the call     as IDLE with a whole known call
        HOLDING     dataReceived, no memory left (503)     DISCARDING
        RECEIVING   allHeadersReceived, nothing wrong      RECEIVING
        RECEIVING   allHeadersReceived, a wrong head       DISCARDING
        RECEIVING   bad_request                            DISCARDING
        RECEIVING   discard: its body isn't wanted         DISCARDING
        RECEIVING   allContentReceived                     ANSWERING
        ANSWERING   requestDone                            IDLE; CLOSING after the last request (Connection: close)
        ANSWERING   upgrade                                RELAYING
        IDLE        expire, finish_up                      CLOSING
        RECEIVING   expire                                 DISCARDING (408); CLOSING if there was only an empty line
        HOLDING     expire                                 DISCARDING (408)
        HOLDING     finish_up                              CLOSING
        RECEIVING   finish_up                              the same; CLOSING if the request line isn't there yet
        ANSWERING   finish_up                              the same; requestDone then goes to CLOSING
        DISCARDING  expire                                 CLOSING
        RELAYING    upgrade's relay has ended              CLOSING
        RELAYING    readConnectionLost                     the connection is aborted
        others      readConnectionLost                     CLOSING once complete requests are answered (REFUSED stays)
        any         loseConnection, connectionLost         CLOSING (REFUSED stays)
        CLOSING     expire                                 the connection is aborted

    From DISCARDING on, incoming bytes are no longer parsed as HTTP.

    Independently of the state, C{paused} is set while the client doesn't read its answers fast enough. Then the parser holds
    incoming bytes, and the deadline aborts the connection.

    @cvar REFUSED: too many connections are open. The connection isn't counted, and closes.
    @cvar IDLE: no byte of a request has arrived. Deadline: C{header_time} on a new connection, then C{idle_time}.
    @cvar RECEIVING: a request is arriving, and the parser reads it. Deadline: C{header_time} to the end of the head, then
        C{body_time}.
    @cvar HOLDING: the body of a known call is arriving; the parser isn't involved. Deadline: C{body_time}.
    @cvar ANSWERING: a whole request is being answered. The parser holds incoming bytes. There is no deadline.
    @cvar DISCARDING: an answer that ends the connection is being written, or was written. Incoming bytes are discarded, so
        that the client can finish sending and read the answer. Deadline: C{LINGER} after the answer.
    @cvar RELAYING: the connection speaks WebSocket; its relay sets the deadline.
    @cvar CLOSING: the connection closes when everything is sent, or has closed. Incoming bytes are discarded. Deadline:
        C{send_time}.
    """

    IDLE = 1
    RECEIVING = 2
    HOLDING = 3
    ANSWERING = 4
    DISCARDING = 5
    RELAYING = 6
    CLOSING = 7
    REFUSED = 8
