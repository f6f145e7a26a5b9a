"""What is done beside the jobs, every hour."""

from opsdeck.health import HEADS
from opsdeck.jobs.serving import keep_house


async def test_keeping_house_writes_the_head_that_shows_a_cut_tail(deck, boss):
    await deck.audit.record(boss, "test.done", "test:1")
    await keep_house(deck)
    (line,) = (deck.settings.home / HEADS).read_text().splitlines()
    assert str(await deck.audit.head()) in line
