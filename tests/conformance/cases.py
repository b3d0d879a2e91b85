# SPDX-License-Identifier: MIT
"""What the cases share: which of them belong to the long form, for which role they are, and how bytes are sent."""
import os

import pytest

LONG = os.environ.get("TIDEWIRE_CONFORMANCE") == "long"

# For what the RFC says of one end only; everything else is asked of both.
as_server = pytest.mark.parametrize("role", ["server"], indirect=True, ids=["as_server"])
as_client = pytest.mark.parametrize("role", ["client"], indirect=True, ids=["as_client"])

HOWS = ["at once", "frame by frame", "octet by octet"]
in_every_way = pytest.mark.parametrize("how", HOWS)

HELLO = bytes.fromhex("f248cdc9c90700")  # RFC 7692, 7.2.3.1

# Parameters of permessage-deflate, for an offer to the server and for an answer to the client: in this one
# client_max_window_bits always has a value.
SETS = {
    "defaults": "",
    "no takeover": "; server_no_context_takeover; client_no_context_takeover",
    "server without takeover": "; server_no_context_takeover",
    "client without takeover": "; client_no_context_takeover",
    **{f"server window {n}": f"; server_max_window_bits={n}" for n in range(8, 16)},
    **{f"client window {n}": f"; client_max_window_bits={n}" for n in range(8, 16)},
    "small windows": "; server_max_window_bits=9; client_max_window_bits=9",
    "small windows, no takeover": "; server_no_context_takeover; client_no_context_takeover"
                                  "; server_max_window_bits=9; client_max_window_bits=9",
    "smallest windows": "; server_max_window_bits=8; client_max_window_bits=8",
}
