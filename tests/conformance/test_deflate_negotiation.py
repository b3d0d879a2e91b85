# SPDX-License-Identifier: MIT
"""permessage-deflate is agreed upon (RFC 7692, 5 and 7.1): offers as a server takes them, answers as a client does.
What is agreed to is then spoken, in both directions."""
import itertools

import pytest

from cases import LONG
from deflate import farthest
from peer import TEXT, codec_of_a_client, codec_of_a_server, parameters, reach, request

NAME = "permessage-deflate"
NO_SERVER, NO_CLIENT = "server_no_context_takeover", "client_no_context_takeover"
SERVER_BITS, CLIENT_BITS = "server_max_window_bits", "client_max_window_bits"

TALK = [b"", b"low tide, high tide, low tide", b'{"level": 1, "tide": "low"}' * 40, b"x" * 5000, bytes(range(128)) * 9]
CONFIGURED = [{"compression_takeover": "false"}, *({"compression_window": n} for n in range(9, 16))]


def text_of(params):
    return "; ".join([NAME, *(key if value is True else f"{key}={value}" for key, value in params.items())])


def check_talk(peer):
    """What was agreed upon holds: Peer and Codec raise for what does not fit it."""
    for _ in range(3):
        for data in TALK:
            peer.echo(TEXT, data)
            if peer.compressed is not None:
                assert farthest(peer.compressed) <= 1 << peer.codec.receive_bits
    peer.finish()


# ---- offers (a Tidewire that serves) ----

@pytest.fixture
def squeezing(tidewire):
    return tidewire(compression="true", compression_min=0, compression_window=15)


def answer_to(peer, *offers):
    """The extensions that are agreed to, as the header says; None without one."""
    peer.send(request(sec_websocket_extensions=list(offers)))
    head = peer.head()
    assert head.status == 101, head.start
    agreed = head.all("sec-websocket-extensions")
    assert len(agreed) <= 1
    return agreed[0] if agreed else None


def check_answer(offer, answer):
    """7.1: whether an answer accepts this offer, and no more than it."""
    assert set(answer) <= {NO_SERVER, NO_CLIENT, SERVER_BITS, CLIENT_BITS}
    for flag in (NO_SERVER, NO_CLIENT):
        assert answer.get(flag, True) is True
    for bits in (SERVER_BITS, CLIENT_BITS):
        assert bits not in answer or 8 <= answer[bits] <= 15, "a value from 8 to 15, and never none, in an answer"
    if NO_SERVER in offer:  # 7.1.1.1: "accepts [...] by including"
        assert NO_SERVER in answer
    if SERVER_BITS in offer:  # 7.1.2.1: "the same or smaller value"
        assert answer[SERVER_BITS] <= offer[SERVER_BITS]
    if CLIENT_BITS not in offer:  # 7.1.2.2: "MUST NOT include"
        assert CLIENT_BITS not in answer
    elif offer[CLIENT_BITS] is not True:
        assert answer.get(CLIENT_BITS, 0) <= offer[CLIENT_BITS]


def check_offer(server, offer):
    with reach(server) as peer:
        agreed = answer_to(peer, text_of(offer))
        assert agreed is not None, "declined"
        answer = parameters(agreed)
        check_answer(offer, answer)
        peer.codec = codec_of_a_client(offer, answer)
        check_talk(peer)


FLAGS = [{}, {NO_SERVER: True}, {NO_CLIENT: True}, {NO_SERVER: True, NO_CLIENT: True}]
BITS = range(8, 16)
SERVER_WINDOWS = [{}, *({SERVER_BITS: bits} for bits in BITS)]
CLIENT_WINDOWS = [{}, {CLIENT_BITS: True}, *({CLIENT_BITS: bits} for bits in BITS)]


@pytest.mark.parametrize("flags", FLAGS, ids=text_of)
def test_7692_7_1_1_an_offer_with_or_without_context_takeover_is_accepted(squeezing, flags):
    check_offer(squeezing, flags)


@pytest.mark.parametrize("window", SERVER_WINDOWS, ids=text_of)
def test_7692_7_1_2_1_an_offer_of_a_server_window_is_accepted(squeezing, window):
    check_offer(squeezing, window)


@pytest.mark.parametrize("window", CLIENT_WINDOWS, ids=text_of)
def test_7692_7_1_2_2_an_offer_of_a_client_window_is_accepted(squeezing, window):
    check_offer(squeezing, window)


ALL = [{**one, **two, **three} for one, two, three in itertools.product(FLAGS, SERVER_WINDOWS, CLIENT_WINDOWS)]


@pytest.mark.parametrize("offer", ALL if LONG else ALL[::9], ids=text_of)
def test_7692_7_1_an_offer_of_any_parameters_is_accepted(squeezing, offer):
    check_offer(squeezing, offer)


@pytest.mark.parametrize("options", CONFIGURED, ids=str)
def test_7692_7_1_an_answer_fits_the_offer_however_tidewire_is_configured(tidewire, options):
    server = tidewire(**{"compression": "true", "compression_min": 0, **options})
    for offer in [{}, *FLAGS[1:], {SERVER_BITS: 10}, {CLIENT_BITS: True}, {CLIENT_BITS: 10},
                  {SERVER_BITS: 15, CLIENT_BITS: 15}]:
        check_offer(server, offer)


@pytest.mark.parametrize("offer, same_as", [
    (f"{NAME}; {SERVER_BITS}=\"10\"", {SERVER_BITS: 10}),  # RFC 6455, 9.1: a quoted token is the token
    (f"{NAME};{SERVER_BITS}=10;{CLIENT_BITS}", {SERVER_BITS: 10, CLIENT_BITS: True}),
    (f"  {NAME} ;\t{NO_SERVER} ", {NO_SERVER: True}),
    (f"{NAME}; {CLIENT_BITS}; {NO_SERVER}; {SERVER_BITS}=12; {NO_CLIENT}",
     {NO_SERVER: True, NO_CLIENT: True, SERVER_BITS: 12, CLIENT_BITS: True}),
], ids=str)
def test_7692_7_1_an_offer_may_be_written_in_other_ways(squeezing, offer, same_as):
    with reach(squeezing) as peer:
        answer = parameters(answer_to(peer, offer))
        check_answer(same_as, answer)
        peer.codec = codec_of_a_client(same_as, answer)
        check_talk(peer)


# 7.1: "A server MUST decline an extension negotiation offer for this extension if" it contains one of these.
WRONG_BITS = ["0", "1", "7", "16", "100", "264", "4294967305", "010", "08", "+9", "-9", "1e1", "ten", "0x9", '"7"']
BAD = [
    "unknown", "unknown=1", f"{NO_SERVER}; unknown", "Server_no_context_takeover2",
    f"{NO_SERVER}=1", f"{NO_SERVER}=true", f"{NO_SERVER}=\"x\"", f"{NO_CLIENT}=0", f"{NO_CLIENT}=15",
    SERVER_BITS, *(f"{bits}={value}" for bits in (SERVER_BITS, CLIENT_BITS) for value in WRONG_BITS),
    f"{NO_SERVER}; {NO_SERVER}", f"{NO_CLIENT}; {NO_CLIENT}", f"{SERVER_BITS}=10; {SERVER_BITS}=10",
    f"{SERVER_BITS}=10; {SERVER_BITS}=11", f"{CLIENT_BITS}; {CLIENT_BITS}", f"{CLIENT_BITS}=10; {CLIENT_BITS}",
    f"{CLIENT_BITS}; {NO_SERVER}; {CLIENT_BITS}=10",
]


@pytest.mark.parametrize("bad", BAD)
def test_7692_7_1_an_offer_with_a_fault_is_declined(squeezing, bad):
    """The WebSocket opens without it: RSV1 is a reserved bit again."""
    with reach(squeezing) as peer:
        assert answer_to(peer, f"{NAME}; {bad}") is None
        peer.echo(TEXT, "plain")
        peer.send_frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4)
        peer.expect_close(1002)


@pytest.mark.parametrize("good", [{}, {NO_SERVER: True, CLIENT_BITS: 9}], ids=text_of)
@pytest.mark.parametrize("bad", BAD)
def test_7692_5_1_the_offer_after_a_faulty_one_is_taken(squeezing, bad, good):
    """5.1 and 7.1: a client may offer several configurations, the first being the one it likes best."""
    with reach(squeezing) as peer:
        answer = parameters(answer_to(peer, f"{NAME}; {bad}, {text_of(good)}"))
        check_answer(good, answer)
        peer.codec = codec_of_a_client(good, answer)
        check_talk(peer)


@pytest.mark.parametrize("first, second", [
    ({NO_SERVER: True}, {}), ({SERVER_BITS: 9}, {}), ({SERVER_BITS: 10, CLIENT_BITS: 10}, {NO_SERVER: True}),
    ({NO_CLIENT: True}, {SERVER_BITS: 12})], ids=text_of)
@pytest.mark.parametrize("fields", ["one header", "two headers"])
def test_7692_5_1_of_several_offers_the_first_is_taken(squeezing, first, second, fields):
    """The order is the client's preference (RFC 6455, 9.1); the RFC leaves the choice to the server, and Tidewire takes
    the first that it can."""
    offers = [text_of(first), text_of(second)]
    with reach(squeezing) as peer:
        answer = parameters(answer_to(peer, *([", ".join(offers)] if fields == "one header" else offers)))
        check_answer(first, answer)
        peer.codec = codec_of_a_client(first, answer)
        check_talk(peer)


@pytest.mark.parametrize("others", ["x-unknown, {}", "{}, x-unknown; a=1", "x-webkit-deflate-frame, {}, x-unknown"])
def test_7692_5_1_other_extensions_do_not_disturb_it(squeezing, others):
    with reach(squeezing) as peer:
        answer = parameters(answer_to(peer, others.format(NAME)))
        peer.codec = codec_of_a_client({}, answer)
        check_talk(peer)


@pytest.mark.parametrize("name", ["permessage-deflat", "permessage-deflate2", "x-permessage-deflate",
                                  "permessage-bzip2", "perframe-deflate", "deflate-stream"])
def test_7692_5_1_an_extension_of_another_name_is_declined(squeezing, name):
    with reach(squeezing) as peer:
        assert answer_to(peer, name) is None
        peer.echo(TEXT, "plain")
        peer.finish()


def test_7692_5_1_without_an_offer_there_is_no_compression(squeezing):
    with reach(squeezing) as peer:
        peer.send(request())
        assert not peer.head().all("sec-websocket-extensions")
        peer.echo(TEXT, "x" * 5000)
        peer.send_frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4)
        peer.expect_close(1002)


@pytest.mark.parametrize("offer", [f"{NAME};", f"{NAME}; {SERVER_BITS}=", f"{NAME}; =10", f"{NAME}; {SERVER_BITS}=\"10",
                                   f"{NAME}; {SERVER_BITS}==10", f"{NAME} {NO_SERVER}", f"{NAME}; {NAME};;"])
def test_9_1_a_malformed_offer_of_compression_is_refused(squeezing, offer):
    """Not declined: this is RFC 6455's rule for the header (9.1)."""
    with reach(squeezing) as peer:
        peer.send(request(sec_websocket_extensions=offer))
        assert peer.head().status == 400


# ---- answers (a Tidewire that connects) ----

def offer_of(call):
    header = call.request.joined("sec-websocket-extensions")
    assert header, "permessage-deflate is not offered"
    return [parameters(offer.strip()) for offer in header.split(",")]


@pytest.fixture
def offering(tidewire, call):
    """offering(**options of the configuration) has a Tidewire connect that offers compression."""
    def get(**options):
        server = tidewire(**{"compression_min": 0, "compression_window": 15, **options})
        return call(server=server, compression=True)
    return get


@pytest.mark.parametrize("options", [{}, *CONFIGURED], ids=str)
def test_7692_7_1_the_offer_is_sound(offering, options):
    for offer in offer_of(offering(**options)):
        assert set(offer) <= {NO_SERVER, NO_CLIENT, SERVER_BITS, CLIENT_BITS}
        assert offer.get(NO_SERVER, True) is True and offer.get(NO_CLIENT, True) is True
        assert SERVER_BITS not in offer or offer[SERVER_BITS] in range(8, 16)
        assert CLIENT_BITS not in offer or offer[CLIENT_BITS] is True or offer[CLIENT_BITS] in range(8, 16)


def check_taken(one, answer):
    one.peer.send(one.response(sec_websocket_extensions=text_of(answer)))
    one.expect_open()
    one.peer.codec = codec_of_a_server(answer)
    check_talk(one.peer)


ANSWERS = [{**one, **two, **three} for one, two, three in
           itertools.product(FLAGS, SERVER_WINDOWS, [{}, *CLIENT_WINDOWS[2:]])]


@pytest.mark.parametrize("flags", FLAGS, ids=text_of)
def test_7692_7_1_1_an_answer_with_or_without_context_takeover_is_taken(offering, flags):
    check_taken(offering(), flags)


@pytest.mark.parametrize("window", SERVER_WINDOWS, ids=text_of)
def test_7692_7_1_2_1_an_answer_with_a_server_window_is_taken(offering, window):
    """"A server may include [it] even if the extension negotiation offer [...] didn't include" it."""
    check_taken(offering(), window)


@pytest.mark.parametrize("window", CLIENT_WINDOWS[2:], ids=text_of)
def test_7692_7_1_2_2_an_answer_with_a_client_window_is_taken(offering, window):
    one = offering()
    assert any(CLIENT_BITS in offer for offer in offer_of(one))
    check_taken(one, window)


@pytest.mark.parametrize("answer", ANSWERS if LONG else ANSWERS[::9], ids=text_of)
def test_7692_7_1_an_answer_of_any_parameters_is_taken(offering, answer):
    check_taken(offering(), answer)


def test_7692_5_1_a_server_may_decline(offering):
    one = offering()
    one.peer.send(one.response())
    one.expect_open()
    one.peer.echo(TEXT, "x" * 5000)
    one.peer.send_frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4)
    one.peer.expect_close(1002)


# 7.1: "A client MUST _Fail the WebSocket Connection_ if the peer server accepted an extension negotiation offer for
# this extension with an extension negotiation response meeting any of the following conditions".
@pytest.mark.parametrize("bad", [*(bad for bad in BAD if not bad.startswith(f"{CLIENT_BITS};")), CLIENT_BITS])
def test_7692_7_1_an_answer_with_a_fault_fails_the_connection(offering, bad):
    one = offering()
    one.peer.send(one.response(sec_websocket_extensions=f"{NAME}; {bad}"))
    one.expect_refusal()


@pytest.mark.parametrize("answer", [
    f"{NAME}, {NAME}", [NAME, NAME], f"{NAME}, x-unknown", f"x-unknown, {NAME}", "x-unknown", "", f"{NAME};",
    f"{NAME}; {SERVER_BITS}=", "permessage-deflate2", f"{NAME} {NO_SERVER}"], ids=str)
def test_4_1_an_answer_with_an_extension_that_was_not_offered_or_a_malformed_one_fails_the_connection(offering, answer):
    """4.1, step 5, and 9.1; of two that use RSV1 at most one can be in use (RFC 7692, 5)."""
    one = offering()
    one.peer.send(one.response(sec_websocket_extensions=answer))
    one.expect_refusal()


@pytest.mark.parametrize("bits", range(9, 15))
def test_7692_7_1_2_1_a_larger_server_window_than_was_offered_fails_the_connection(offering, bits):
    one = offering(compression_window=bits)
    asked = min(offer.get(SERVER_BITS, 15) for offer in offer_of(one))
    assert asked == bits
    one.peer.send(one.response(sec_websocket_extensions=text_of({SERVER_BITS: asked + 1})))
    one.expect_refusal()


def test_7692_7_1_1_1_an_answer_that_ignores_server_no_context_takeover_fails_the_connection(offering):
    one = offering(compression_takeover="false")
    assert all(NO_SERVER in offer for offer in offer_of(one))
    one.peer.send(one.response(sec_websocket_extensions=NAME))
    one.expect_refusal()
