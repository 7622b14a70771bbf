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

    From DISCARDING on, nothing that comes in is taken for HTTP any more.

    Whether the client keeps up with reading is apart from that: while it doesn't, C{paused} is set, what comes in is held by
    the parser in each state, and the deadline aborts the connection.

    @cvar REFUSED: too many connections are open. The connection isn't counted, and closes.
    @cvar IDLE: nothing of a request has come. Deadline: C{header_time} on a new connection, then C{idle_time}.
    @cvar RECEIVING: a request comes in, and the parser reads it. Deadline: C{header_time} to the end of the head, then
        C{body_time}.
    @cvar HOLDING: the body of a known call comes in; the parser isn't involved. Deadline: C{body_time}.
    @cvar ANSWERING: a whole request is being answered. The parser holds what comes in. There is no deadline.
    @cvar DISCARDING: an answer that ends the connection is on its way, or written. What comes in is thrown away, so that
        the client gets to reading the answer. Deadline: C{LINGER} after the answer.
    @cvar RELAYING: the connection speaks WebSocket; its relay sets the deadline.
    @cvar CLOSING: the connection closes once all is sent, or has closed. What comes in is thrown away. Deadline:
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
