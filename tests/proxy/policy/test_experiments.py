"""Sticky arms."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from proxy.config.policies import Arm
from proxy.policy.experiments import choose
from tests.proxy.conftest import Neighbour, proxy_with

ARMS = [Arm(name="control", weight=90), Arm(name="challenger", weight=10)]


@given(st.text(max_size=40))
def test_a_user_keeps_an_arm(user: str) -> None:
    assert choose(user, ARMS) == choose(user, ARMS)


def test_the_shares_are_the_weights() -> None:
    counted = Counter(choose(f"user-{number}", ARMS) for number in range(10_000))
    assert 850 < counted["challenger"] < 1150


def test_more_weight_moves_nobody_out_of_the_arm_that_grew() -> None:
    more = [Arm(name="control", weight=70), Arm(name="challenger", weight=30)]
    for number in range(1000):
        if choose(f"user-{number}", ARMS) == "challenger":
            assert choose(f"user-{number}", more) == "challenger"


def test_an_arm_without_weight_gets_nobody() -> None:
    arms = [Arm(name="a", weight=0), Arm(name="b", weight=1)]
    assert {choose(str(number), arms) for number in range(200)} == {"b"}


async def test_the_arm_goes_to_the_model_and_back_to_the_caller(model: Neighbour) -> None:
    backends = {"digits": {"type": "http", "url": model.url}}
    arms = [arm.model_dump() for arm in ARMS]
    async with proxy_with(backends=backends, arms=arms) as proxy:
        for user in ("alice", "bob", "carol", "dave", "erin"):
            want = choose(user, ARMS)
            for path in ("/v2/models/digits/infer", "/v1/predict/digits"):
                async with proxy.session.post(
                    proxy.url + path,
                    data=b'{"instances":[[' + b"1," * 63 + b"1]]}",
                    headers={"x-user-id": user, "content-type": "application/json"},
                ) as answer:
                    assert answer.headers["X-Slipway-Arm"] == want
                assert model.seen[-1].header("x-slipway-arm") == want


async def test_a_caller_may_choose_one_of_the_arms_and_no_other(model: Neighbour) -> None:
    backends = {"digits": {"type": "http", "url": model.url}}
    arms = [arm.model_dump() for arm in ARMS]
    for given_arms, sent, want in (
        (arms, "challenger", "challenger"),
        (arms, "invented", choose("alice", ARMS)),
        ([], "anything", "anything"),
        ([], "not a name", None),
    ):
        async with (
            proxy_with(backends=backends, arms=given_arms) as proxy,
            proxy.session.post(
                f"{proxy.url}/v2/models/digits/infer",
                data=b"{}",
                headers={"x-slipway-arm": sent, "x-user-id": "alice"},
            ) as answer,
        ):
            assert answer.status == 200
        assert model.seen[-1].header("x-slipway-arm") == want
