"""Many agents that send at once, each over a connection of its own and with a key of its own, as cron has it."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

PATIENCE = 50.0  # seconds that an agent tries for
CONNECT_SECONDS = 10.0
WAITABLE = (429, 503, 507)  # an agent comes again after `Retry-After`


class Ack(NamedTuple):
    """How it went for one agent: the last status, 0 for none, and after how many seconds, and how many tries."""

    status: int
    seconds: float
    tries: int
    answer: dict[str, Any]


class Agent(NamedTuple):
    key: str
    body: Callable[[], dict[str, Any]]  # the heartbeat as it goes out now


def stampede(address: str, agents: Sequence[Agent], *, within: float) -> list[Ack]:
    """Let each agent send one heartbeat, beginning at some moment of so many seconds. Return what became of each."""
    return asyncio.run(_stampede(address, agents, within))


async def _stampede(address: str, agents: Sequence[Agent], within: float) -> list[Ack]:
    chance = Random(len(agents))
    delays = [chance.uniform(0, within) for _ in agents]
    return await asyncio.gather(*(_send(address, *pair) for pair in zip(agents, delays, strict=True)))


async def _send(address: str, agent: Agent, delay: float) -> Ack:
    await asyncio.sleep(delay)
    began = time.monotonic()
    status, tries, answer = 0, 0, {}
    try:
        async with asyncio.timeout(PATIENCE):
            while status in (0, *WAITABLE):
                tries += 1
                status, wait, answer = await post(address, agent)
                if status in WAITABLE:
                    await asyncio.sleep(wait)
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        status = 0
    return Ack(status, time.monotonic() - began, tries, answer)


async def post(address: str, agent: Agent) -> tuple[int, float, dict[str, Any]]:
    """Return status, `Retry-After` and the answer."""
    host, port = address.split(":")
    async with asyncio.timeout(CONNECT_SECONDS):
        reader, writer = await asyncio.open_connection(host, int(port))
    try:
        body = json.dumps(agent.body()).encode()
        head = (
            f"POST /api/v1/agents/heartbeat HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n"
            f"Authorization: Bearer {agent.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        answer = await reader.readexactly(int(headers["content-length"]))
    finally:
        writer.close()
    return int(first.split()[1]), float(headers.get("retry-after", 1)), json.loads(answer)
