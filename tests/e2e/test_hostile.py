# SPDX-License-Identifier: MIT
"""The table of hostile and odd requests: each gets the answers it must get, and whether the connection is kept is what
the last of them says."""
import pytest

from hostile import CASES, MARKER, MARKER_TOLD, SITE

every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def check_answers(client, case):
    answers = [client.response() for _ in case.statuses]
    assert tuple(answer.status for answer in answers) == case.statuses, [answer.body for answer in answers]
    assert tuple(answer.body for answer in answers if answer.status == 200) == case.told
    says_close = "close" in answers[-1].headers.get("connection", "").split(", ")
    assert says_close is not case.kept  # RFC 9112, 9.6
    if not case.kept:
        client.expect_end()
        return
    client.send(MARKER)
    answer = client.response()  # no other one stands before it
    assert (answer.status, answer.body) == (200, MARKER_TOLD)


@every_case
def test_a_hostile_request_is_answered_as_it_must_be_9112(serve, case):
    with serve(SITE).raw() as client:
        client.send(case.data)
        check_answers(client, case)


@every_case
def test_a_hostile_request_in_two_pieces_is_answered_alike(serve, case):
    server = serve(SITE)
    with server.raw() as client:
        server.send_apart(client, case.data[:len(case.data) // 2])
        client.send(case.data[len(case.data) // 2:])
        check_answers(client, case)


@pytest.mark.parametrize("case", [case for case in CASES if not case.kept],
                         ids=[case.name for case in CASES if not case.kept])
def test_what_is_behind_a_request_that_closes_is_not_answered_9112_9_6(serve, case):
    with serve(SITE).raw() as client:
        client.send(case.data + MARKER)
        check_answers(client, case)


def test_the_names_of_the_table_are_different():
    assert len({case.name for case in CASES}) == len(CASES)
