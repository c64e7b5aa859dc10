"""Who pages through a listing."""

from __future__ import annotations

from gateway.cache.crawl_detection import CrawlDetector


def rows(crawls: CrawlDetector, *offsets: int, team: str = "a", limit: int = 10, listing: str = "l") -> list[int]:
    places = [(team, listing, (), limit, offset) for offset in offsets]
    return [crawls.follow(place, (*place[:4], place[4] + limit)) for place in places]


def test_pages_in_a_row() -> None:
    assert rows(CrawlDetector(), 0, 10, 20, 30) == [1, 2, 3, 4]
    assert rows(CrawlDetector(), 5, 15, 25) == [1, 2, 3]


def test_what_breaks_a_row() -> None:
    assert rows(CrawlDetector(), 0, 10, 30, 40) == [1, 2, 1, 2]
    assert rows(CrawlDetector(), 20, 10, 0) == [1, 1, 1]
    assert rows(CrawlDetector(), 30, 30, 30) == [1, 1, 1]


def test_teams_listings_and_sizes_are_told_apart() -> None:
    crawls = CrawlDetector()
    rows(crawls, 0, 10)
    assert rows(crawls, 20, team="b") == [1]
    assert rows(crawls, 20, listing="m") == [1]
    assert rows(crawls, 20, limit=5) == [1]
    assert rows(crawls, 20) == [3]


def test_clients_of_one_team_may_crawl_at_once() -> None:
    crawls = CrawlDetector()
    assert rows(crawls, 0, 50, 10, 60, 20, 70) == [1, 1, 2, 2, 3, 3]
    assert rows(CrawlDetector(), 0, 0, 10, 10, 20, 20) == [1, 1, 2, 1, 3, 1]


def test_what_is_remembered_is_bounded() -> None:
    crawls = CrawlDetector(most=3)
    rows(crawls, 0, 100, 200, 300)
    assert rows(crawls, 10) == [1]
    assert rows(crawls, 310) == [2]
