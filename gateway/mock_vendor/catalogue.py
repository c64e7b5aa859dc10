"""The stand-in vendor's goods: AOIs and their assets, as a function of seed and time.

Owns what a listing holds at a given moment and the bytes it is printed as. Refuses to know
HTTP, keys, behaviours and the clock: the time is an argument.
"""

import json
import random
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

AOI_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Settled assets hang on a fixed day, not on the start of the process: a restart with the same seed
# prints the same bytes for them.
_HISTORY_ENDS = datetime(2025, 6, 1, tzinfo=UTC).timestamp()
_HISTORY_STEP = 6 * 3600.0
_ASSET_TYPES = ("mosaic", "stac_item", "visualization")
# Some of these are not ASCII and one has an ampersand, which Go escapes: a gateway that prints
# JSON anew instead of passing bytes on is found out.
_PLACES = (
    "Bengaluru",
    "Köln",
    "São Paulo",
    "Alice Springs",
    "Hat Yai & Songkhla",
    "Tromsø",
    "東京",
    "Dodoma",
)
_GO_ESCAPES = (
    ("&", "\\u0026"),
    ("<", "\\u003c"),
    (">", "\\u003e"),
    ("\u2028", "\\u2028"),
    ("\u2029", "\\u2029"),
)


def go_json(value: object) -> bytes:
    """Return `value` as Go's encoding/json prints it: compact, UTF-8, HTML characters escaped.

    The five characters can only stand inside strings, so replacing them in the text is enough.
    A lone surrogate becomes invalid UTF-8, so that a check can ask for just that.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for plain, escaped in _GO_ESCAPES:
        text = text.replace(plain, escaped)
    return text.encode("utf-8", "surrogatepass")


@dataclass(frozen=True, slots=True)
class Course:
    """How one asset's processing goes: times in seconds since the epoch, `goal` in per cent.

    One that is not `live` was over before the world began, whatever the clock says: a test's clock
    may stand at 0.
    """

    live: bool
    created: float
    begins: float
    ends: float
    goal: int

    def over(self, now: float) -> bool:
        """Return whether the status is a terminal one as of `now`."""
        return not self.live or now >= self.ends

    def at(self, now: float) -> tuple[str, int, float]:
        """Return status, progress in per cent and the time of the last update, as of `now`."""
        if self.over(now):
            return ("success" if self.goal == 100 else "failed"), self.goal, self.ends
        if now < self.begins:
            return "creating", 0, self.created
        share = (now - self.begins) / (self.ends - self.begins)
        progress = int(share * self.goal)
        # The update time moves with the progress and not with the clock, as a record's does.
        reached = self.begins + progress / self.goal * (self.ends - self.begins)
        return "started", progress, reached


@dataclass(frozen=True, slots=True)
class _Plan:
    """How many assets a listing has, and how many of the first ones were not done at the start."""

    total: int
    live: int


class Catalogue:
    """What every AOI's listing holds.

    Args: `aois` how many; `seed` selects the world; `started` seconds since the epoch, the moment
    that unfinished assets count from.
    """

    def __init__(self, *, aois: int, seed: int, started: float) -> None:
        self._seed = seed
        self._started = started
        self._drawn: dict[tuple[str, int, bool], tuple[dict[str, Any], Course]] = {}
        # Printing is most of a page's cost, and an asset that is over prints the same for ever.
        self._printed: dict[tuple[str, int, bool], bytes] = {}
        self._given: dict[str, list[dict[str, Any]] | None] = {}
        self._plans: dict[str, _Plan] = {}
        for number in range(aois):
            draw = self._draw("aoi", number)
            self._plans[_uuid(draw)] = _plan(number, draw)
        self.aoi_ids = list(self._plans)

    def total(self, aoi_id: str) -> int | None:
        """Return how many assets the AOI has, None when there is no such AOI."""
        if aoi_id in self._given:
            return len(self._given[aoi_id] or ())
        plan = self._plans.get(aoi_id)
        return None if plan is None else plan.total

    def set_assets(self, aoi_id: str, assets: Sequence[Mapping[str, Any]] | None) -> None:
        """Serve exactly these assets, with `aoi_id` and `id` filled in where they are missing.

        None is a listing whose `assets` are null. Raises ValueError for an id that is no AOI's.
        """
        _check_aoi_id(aoi_id)
        if assets is None:
            self._given[aoi_id] = None
            return
        self._given[aoi_id] = [
            {
                **({} if "aoi_id" in asset else {"aoi_id": aoi_id}),
                **({} if "id" in asset else {"id": _uuid(self._draw("given", aoi_id, index))}),
                **asset,
            }
            for index, asset in enumerate(assets)
        ]

    def set_count(self, aoi_id: str, count: int) -> None:
        """Serve `count` generated assets, all of them done. Raises ValueError as set_assets."""
        _check_aoi_id(aoi_id)
        if count < 0:
            raise ValueError("count must not be negative")
        self._given.pop(aoi_id, None)
        self._plans[aoi_id] = _Plan(total=count, live=0)

    def listing(self, aoi_id: str, offset: int, limit: int, now: float) -> bytes | None:
        """Return the page as the vendor prints it, None when there is no such AOI.

        Args: `offset` and `limit` at least 0; `now` in seconds since the epoch.
        """
        total = self.total(aoi_id)
        if total is None:
            return None
        if aoi_id in self._given:
            given = self._given[aoi_id]
            assets = go_json(None if given is None else given[offset : offset + limit])
        else:
            stop = min(total, offset + limit)
            printed = (self._print(aoi_id, index, now) for index in range(offset, stop))
            assets = b"[" + b",".join(printed) + b"]"
        pagination = go_json({"total": total, "offset": offset, "limit": limit})
        return b'{"assets":' + assets + b',"pagination":' + pagination + b"}"

    def _print(self, aoi_id: str, index: int, now: float) -> bytes:
        live = index < self._plans[aoi_id].live
        key = (aoi_id, index, live)
        if key not in self._drawn:
            self._drawn[key] = self._draw_asset(aoi_id, index, live=live)
        asset, course = self._drawn[key]
        if course.over(now) and key in self._printed:
            return self._printed[key]
        status, progress, updated = course.at(now)
        # Keys that exist keep their place, so the documented order holds.
        state = {"progress": progress, "status": status, "updated_at": _stamp(updated)}
        printed = go_json({**asset, **state})
        if course.over(now):
            self._printed[key] = printed
        return printed

    def _draw_asset(self, aoi_id: str, index: int, *, live: bool) -> tuple[dict[str, Any], Course]:
        # One generator for the AOI's place, so that its assets lie in one spot, one for the asset.
        place_draw = self._draw("place", aoi_id)
        lon, lat = place_draw.uniform(-170, 170), place_draw.uniform(-60, 60)
        place = place_draw.choice(_PLACES)
        draw = self._draw("asset", aoi_id, index)
        kind = draw.choice(_ASSET_TYPES)
        asset_id = _uuid(draw)
        side = draw.uniform(0.02, 0.08)
        ring = _ring(draw, lon, lat, side)
        course = self._draw_course(draw, index, live=live)
        asset = {
            "aoi_id": aoi_id,
            # One degree is about 111.32 km; good enough for a number that nobody computes with.
            "area_in_sq_m": round((side * 2 * 111_320) ** 2 * 0.8, 2),
            "asset_type": kind,
            "band_list": [f"B{band:02d}" for band in range(1, draw.randrange(6, 15))],
            "centroid": [round(lon, 5), round(lat, 5)],
            "created_at": _stamp(course.created),
            "date": _stamp(course.created)[:10],
            "description": f"Hyperspectral {kind} over {place}, cloud {draw.randrange(0, 30)} %",
            "geometry": {"coordinates": [ring], "type": "Polygon"},
            "id": asset_id,
            "name": f"{place} {kind} {index:04d}",
            "path": f"https://storage.example/pixxel-assets/{asset_id}/{kind}.tif",
            "progress": 0,
            "resolution": draw.choice((5, 10, 30)),
            "status": "creating",
            "updated_at": "",
            "visualization_id": _uuid(draw),
        }
        return asset, course

    def _draw_course(self, draw: random.Random, index: int, *, live: bool) -> Course:
        goal = draw.randrange(5, 95) if draw.random() < 0.05 else 100
        wait, work = draw.uniform(-20, 60), draw.uniform(25, 120)
        created = _HISTORY_ENDS - index * _HISTORY_STEP - draw.uniform(0, 3600)
        begins = created + 30 + wait
        if live:
            # Some have begun by the start and none has ended.
            created, begins = self._started - 30 - index - draw.random(), self._started + wait
        return Course(live=live, created=created, begins=begins, ends=begins + work, goal=goal)

    def _draw(self, *what: object) -> random.Random:
        # Seeding with a string gives the same numbers on every platform and supported Python.
        return random.Random("/".join(map(str, (self._seed, *what))))  # noqa: S311 - no secret


def _plan(number: int, draw: random.Random) -> _Plan:
    """Return AOI `number`'s size: the first is large and busy, the second empty, every third done.

    The newest assets come first, so that a busy AOI has in-progress pages before settled ones.
    """
    if number == 0:
        return _Plan(total=draw.randrange(60, 251), live=7)
    if number == 1:
        return _Plan(total=0, live=0)
    total = draw.randrange(0, 251)
    live = (draw.randrange(1, 13), draw.randrange(1, 40), 0)[number % 3]
    return _Plan(total=total, live=min(live, total))


def _ring(draw: random.Random, lon: float, lat: float, side: float) -> list[list[float]]:
    """Return a closed polygon of six corners, counter-clockwise, degrees."""
    corners = ((-1, -1), (0, -1), (1, 0), (1, 1), (0, 1), (-1, 0))
    ring = [
        [
            round(lon + side * (x + draw.uniform(-0.1, 0.1)), 5),
            round(lat + side * (y + draw.uniform(-0.1, 0.1)), 5),
        ]
        for x, y in corners
    ]
    return [*ring, ring[0]]


def _stamp(when: float) -> str:
    """Return the vendor's form of a time, as in `2022-11-14 12:55:49.125928+00:00`."""
    return (_EPOCH + timedelta(seconds=when)).isoformat(sep=" ", timespec="microseconds")


def _uuid(draw: random.Random) -> str:
    return str(uuid.UUID(int=draw.getrandbits(128), version=4))


def _check_aoi_id(aoi_id: str) -> None:
    if not AOI_ID.fullmatch(aoi_id):
        raise ValueError(f"{aoi_id!r} is no AOI id: {AOI_ID.pattern}")
